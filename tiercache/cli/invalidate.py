"""`tiercache invalidate`: make the fleet forget keys, from outside."""

import argparse
import sys
from typing import Any

from tiercache import Cache, TierCacheError
from tiercache.cli.reach import Unreachable, reached, shown

_EPILOG = """\
examples:
  tiercache invalidate redis://localhost:6379/0 item:42 --namespace shop
  tiercache invalidate redis://localhost:6379/0 item:42 item:43 --namespace shop --keep-stale

Every process of the namespace hears it, and a load that is running can't store its value any more.
Exit code 0: done; 2: it could not be done, and nothing is certain.
"""
_PATIENCE = 5.0  # seconds


def add_command(commands: Any) -> None:
    """Add `invalidate` to the commands of an argument parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "invalidate",
        help="make every process forget keys",
        description="Invalidate keys in Redis and in every process of a namespace, as cache.invalidate does.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="redis://, rediss:// or unix://")
    parser.add_argument("keys", metavar="KEY", nargs="+", help="as the program writes it")
    parser.add_argument("--namespace", default="default", metavar="NS", help="the cache's namespace (default)")
    parser.add_argument("--keep-stale", action="store_true", help="keep the old values for stale-if-error")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        with reached(options.url):
            pass
        settings = dict.fromkeys(("connect_timeout", "call_timeout", "call_budget"), _PATIENCE)
        with Cache(options.url, namespace=options.namespace, **settings) as cache:  # type: ignore[arg-type]
            cache.invalidate(*options.keys, keep_stale=options.keep_stale)
    except (Unreachable, TierCacheError, ValueError) as error:
        print(f"tiercache invalidate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    many = f"{len(options.keys):,} keys" if len(options.keys) > 1 else repr(options.keys[0])
    print(f"invalidated {many} in namespace {options.namespace} at {shown(options.url)}")
    return 0
