"""`tiercache demo`: one herd, four ways, or a popular item under three policies; what it costs, seen and counted."""

import argparse
import contextlib
import importlib.util
import secrets
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from tiercache.cli.children import ChildError
from tiercache.cli.interrupts import Interrupted, Interrupts
from tiercache.cli.reach import Unreachable, reached, shown
from tiercache.cli.server import RedisServer, ServerError, connect

if TYPE_CHECKING:
    from rich.console import Console

    from tiercache.cli.herd import Plan, Result

FULL, QUICK = (4, 250), (2, 25)
LIMIT_SECONDS = 30.0
QUICK_LIMIT_SECONDS = (4.0, 9.0, 12.0)  # at least, at most, and the end of the first arm since the start
MOST_PROCESSES, MOST_CALLERS, MOST_IN_ALL = 64, 2000, 8000
ROWS = 300_000
_TABLE_WIDTH = 100
_DESCRIPTION = """\
A popular item expires, and 4 processes x 250 callers ask for it at one moment. Its query takes 300 ms.
Shown: what happens without protection, with the well-known get/lock/sleep/retry recipe, and with
tiercache from threads and from asyncio. Needs no server and no data: it brings both, and removes them.
`tiercache demo popular`: an item that is asked for all the time ends again and again, without early refreshes,
with those by chance (XFetch), and refreshed ahead, side by side: who waits for its loader, and how many loads.
"""
_EXIT_CODES = """\
An arm that takes longer than 30 s (with --quick: 4 to 9 s) is stopped; callers that were not answered then
count as having waited until then. Exit code 0: fine; 1: tiercache made more than one query or left a
caller unanswered (popular: refresh ahead kept a caller waiting); 2: it could not be run; 130: interrupted.
"""


class DemoError(Exception):
    """The demo can't be run as asked; the text is one line."""


_COMPLAINTS = (DemoError, ChildError, Unreachable, ServerError, Interrupted)


def add_command(commands: Any) -> None:
    """Add `demo` to the commands of an argument parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="show a cache stampede, and tiercache ending it",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
    )
    parser.add_argument("scene", nargs="?", choices=("herd", "popular"), default="herd", help="what is shown (herd)")
    parser.add_argument("--url", metavar="URL", help="use this Redis (redis://, rediss://, unix://), not a private one")
    parser.add_argument(
        "--port",
        type=_number(1, 65535),
        metavar="N",
        help="let the private Redis listen on this port of 127.0.0.1, for redis-cli",
    )
    parser.add_argument("--processes", type=_number(1, MOST_PROCESSES), metavar="N", help="processes (4)")
    parser.add_argument("--callers", type=_number(1, MOST_CALLERS), metavar="N", help="callers per process (250)")
    parser.add_argument(
        "--quick", action="store_true", help="2 processes x 25 callers, under 20 s in all; popular: about 10 s"
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, the rest on stderr")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture there, a PNG")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo and return its exit code; whatever happens, nothing of it is left."""
    with Interrupts() as interrupts:
        try:
            code = _demo(options, interrupts.check)
        except (*_COMPLAINTS, redis.RedisError, sqlite3.Error, OSError) as error:
            code = 2
            complaint = " ".join(str(error).split())
        else:
            complaint = ""
    if interrupts.fired:
        code, complaint = 130, "interrupted; everything that it started is stopped and removed"
    if complaint:
        print(f"tiercache demo: {complaint}", file=sys.stderr)
    return code


def _demo(options: argparse.Namespace, check: Callable[[], None]) -> int:
    _require("rich", "matplotlib" if options.plot else "rich")
    from rich.console import Console

    _refuse_what_can_not_be(options)
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(RedisServer(port=options.port or 0)).url
        server = _server_version(url)
        console.print(f"Redis {server} at {shown(url)}", highlight=False, soft_wrap=True)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tiercache-demo-"))
        where = _Where(url, server, secrets.token_hex(6), Path(directory))
        if options.url:
            stack.callback(_remove_keys, url, where.run)
        found = (_popular if options.scene == "popular" else _herd)(options, where, console, check)
        if options.plot:
            found.draw(options.plot)
            console.print(f"picture: {options.plot}", highlight=False, soft_wrap=True)
    check()
    if options.json:
        print(found.as_json)
    found.print_table(_table_console(stderr=options.json))
    for line in found.shortcomings:
        console.print(f"FAILED: {line}", style="bold red", markup=False, soft_wrap=True)
    return 1 if found.shortcomings else 0


class _Where(NamedTuple):
    url: str
    server: str  # its version
    run: str  # random, in the name of every key
    directory: Path


class _Found(NamedTuple):
    """What was shown, ready to be told."""

    draw: Callable[[Path], None]
    as_json: str
    print_table: Callable[["Console"], None]
    shortcomings: list[str]


def _herd(options: argparse.Namespace, where: _Where, console: "Console", check: Callable[[], None]) -> _Found:
    from tiercache.cli import plot, report, version

    plan = _plan(options, where, console, check)
    results = _run_arms(plan, console, check)
    return _Found(
        partial(plot.draw, results, plan),
        report.as_json(results, plan, report.versions(version(), where.server)),
        partial(report.print_table, results, plan),
        report.shortcomings(results, plan),
    )


def _popular(options: argparse.Namespace, where: _Where, console: "Console", check: Callable[[], None]) -> _Found:
    from tiercache.cli import expiries, report, version
    from tiercache.cli.popular import QUICK, Plan, run_arms

    plan = Plan(where.url, where.run, where.directory, **(QUICK if options.quick else {}))
    with expiries.progress(console, plan.seconds) as watch:
        courses = run_arms(plan, watch, check)
    return _Found(
        partial(expiries.draw, courses, plan),
        expiries.as_json(courses, plan, report.versions(version(), where.server)),
        partial(expiries.print_table, courses, plan),
        expiries.shortcomings(courses),
    )


def _plan(options: argparse.Namespace, where: _Where, console: "Console", check: Callable[[], None]) -> "Plan":
    from tiercache.cli import database
    from tiercache.cli.herd import Plan

    begin = time.monotonic()
    path = where.directory / "shop.sqlite"
    database.create(path, ROWS)
    check()
    query, seconds = database.calibrate(path, ROWS, check, rounds=3 if options.quick else 4)
    console.print(
        f"SQLite: {ROWS:,} rows; the popular item's query takes {seconds * 1000:.0f} ms alone",
        highlight=False,
    )
    processes, callers = QUICK if options.quick else FULL
    return Plan(
        url=where.url,
        own_server=not options.url,
        run=where.run,
        directory=where.directory,
        processes=options.processes or processes,
        callers=options.callers or callers,
        limit=_quick_limit(time.monotonic() - begin) if options.quick else LIMIT_SECONDS,
        query=query,
        query_seconds=seconds,
        expected=query(),
    )


def _quick_limit(elapsed: float) -> float:
    """On a busy machine the calibration takes longer, and the first arm, the slow one, has to be shorter."""
    least, most, end = QUICK_LIMIT_SECONDS
    return min(most, max(least, end - elapsed))


def _run_arms(plan: "Plan", console: "Console", check: Callable[[], None]) -> list["Result"]:
    from tiercache.cli.herd import TITLES, run_arm
    from tiercache.cli.progress import progress

    results = []
    with progress(console, plan.processes * plan.callers) as shown:
        for arm, title in TITLES.items():
            shown.start(title)
            results.append(run_arm(arm, plan, shown.show, check))
    return results


def _require(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise DemoError(f"needs {module}: pip install 'tiercache-client[demo]'")


def _refuse_what_can_not_be(options: argparse.Namespace) -> None:
    from tiercache.cli import plot

    if options.url and options.port:
        raise DemoError("--port is for the private Redis; it can't be given with --url")
    if options.scene == "popular" and (options.processes or options.callers):
        raise DemoError("--processes and --callers are for the herd; they can't be given with popular")
    processes, callers = QUICK if options.quick else FULL
    in_all = (options.processes or processes) * (options.callers or callers)
    if in_all > MOST_IN_ALL:
        raise DemoError(f"{in_all:,} callers are too many; at most {MOST_IN_ALL:,} in all")
    if options.plot and (complaint := plot.complaint(options.plot)):
        raise DemoError(complaint)


def _server_version(url: str) -> str:
    """The version of a server that answers, lets us in and takes writes."""
    with reached(url) as client:
        client.set(f"tiercache-demo-{secrets.token_hex(6)}", "", px=1)
        with contextlib.suppress(redis.ResponseError):
            return str(client.info("server")["redis_version"])
        return "of an unknown version"


def _remove_keys(url: str, run: str) -> None:
    """Remove the keys of this run, and only these, from a Redis that is not ours."""
    with contextlib.suppress(redis.RedisError), contextlib.closing(connect(url)) as client:
        for key in client.scan_iter(match=f"*tiercache-demo-{run}-*", count=5000):
            client.unlink(key)


def _table_console(stderr: bool) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_TABLE_WIDTH)


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most:,}")
        return value

    return parse
