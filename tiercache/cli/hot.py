"""`tiercache hot`: what a fleet is asked for most."""

import argparse
import json
import sys
import time
from typing import Any

from tiercache import Hot
from tiercache.cli.reach import Unreachable, reached
from tiercache.remote.commands import HOTTEST, Names
from tiercache.remote.popularity import KEPT, PERIOD, hottest

_EPILOG = """\
examples:
  tiercache hot redis://localhost:6379/0 --namespace shop
  tiercache hot redis://localhost:6379/0 --namespace shop -n 50 --json
  tiercache hot redis://localhost:6379/0 --namespace shop --watch

Each process tells its hits every few seconds; they are forgotten by the half-life of its cache's policy. A key of more
than 200 bytes is shown as # and a digest. Nothing is changed.
Exit code 0: these are popular; 1: nobody has told of any hit; 2: Redis could not be asked.
"""


def add_command(commands: Any) -> None:
    """Add `hot` to the commands of an argument parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "hot",
        help="show which keys a fleet is asked for most",
        description="Show a namespace's most popular keys: hits per second of all processes, and shares of all hits.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="redis://, rediss:// or unix://")
    parser.add_argument("--namespace", default="default", metavar="NS", help="the cache's namespace (default)")
    parser.add_argument("-n", type=_number, default=10, metavar="N", help=f"how many keys, 1 to {KEPT:,} (10)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--watch", action="store_true", help=f"again every {PERIOD:g} s, until Ctrl-C")
    parser.set_defaults(run=run)


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= KEPT:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {KEPT:,}, not {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        while True:
            found = _found(options)
            text = json.dumps([each._asdict() for each in found]) if options.json else _table(found)
            print(text if options.json or not options.watch else text + "\n", flush=True)
            if not options.watch:
                return 0 if found else 1
            time.sleep(PERIOD)
    except (Unreachable, ValueError) as error:
        print(f"tiercache hot: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0 if options.watch else 130


def _found(options: argparse.Namespace) -> list[Hot]:
    names = Names(options.namespace).popularity
    with reached(options.url) as client:
        reply = client.eval(HOTTEST.text, len(names), *names, str(options.n))
    return [Hot(*each) for each in hottest(reply)]


def _table(found: list[Hot]) -> str:
    if not found:
        return "nobody has told of any hit"
    rows = [(f"{each.rate:,.1f}", f"{each.share:.1%}", _shown(each.key)) for each in found]
    width = max(len("hits/s"), *(len(rate) for rate, _, _ in rows))
    lines = [f"{rate:>{width}}  {share:>6}  {key}" for rate, share, key in [("hits/s", "share", "key"), *rows]]
    return "\n".join(lines)


def _shown(key: str) -> str:
    # Whoever writes to Redis chooses texts: what a terminal would obey is written out.
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in key)
