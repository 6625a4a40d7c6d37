"""`tiercache worker`: does the refreshes that other processes leave to it."""

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from tiercache import Cache
from tiercache.worker import NotAllowed, Worker

_EPILOG = """\
examples:
  tiercache worker shop.cache:cache
  tiercache worker shop.cache:cache --import shop.views --concurrency 16
  tiercache worker shop.cache:cache --ready-file /run/tiercache/ready

Processes whose policy says refresh="worker" leave early refreshes to it; without a worker they do them by themselves.
A worker runs the functions that are decorated with this very cache, in the modules that are imported. The first
SIGTERM or SIGINT lets the running ones end, within --grace; what is running then, or at a second signal, is handed to
the other workers.
Exit code 0: stopped by a signal; 1: a defect; 2: the command line, the import or the rights in Redis are wrong.
"""
log = logging.getLogger("tiercache.worker")


class Wrong(Exception):
    """It can't work as asked; the text is one line."""


def add_command(commands: Any) -> None:
    """Add `worker` to the commands of an argument parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "worker",
        help="refresh what other processes leave to it",
        description="Load the values that processes with refresh='worker' find due, under the lease.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cache", metavar="MODULE:CACHE", help="the cache, as it is imported from here")
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE",
                        help="import this module too, whose functions are cached (may be repeated)")  # fmt: skip
    parser.add_argument("--concurrency", type=_positive, default=8, metavar="N", help="functions at once (8)")
    parser.add_argument("--grace", type=float, default=10.0, metavar="SECONDS",
                        help="how long running functions may go on after a signal (10)")  # fmt: skip
    parser.add_argument("--ready-file", type=Path, metavar="PATH", help="a file that exists while it takes jobs")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        cache = _imported(options.cache, options.modules)
        _log_to_stderr()
        asyncio.run(_work(cache, options))
    except (Wrong, NotAllowed) as error:
        print(f"tiercache worker: {error}", file=sys.stderr)
        return 2
    except Exception:
        log.exception("the worker ends: this is a defect of tiercache")
        return 1
    return 0


async def _work(cache: Cache, options: argparse.Namespace) -> None:
    def ready(takes_jobs: bool) -> None:
        if takes_jobs:
            log.info("ready: refreshes for namespace %s, %d at once", cache.namespace, options.concurrency)
        _write(options.ready_file, takes_jobs)

    worker = Worker(cache, options.concurrency, ready)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    try:
        await worker.run(options.grace)
    finally:
        await cache.aclose()
        _write(options.ready_file, False)
    stats = cache.stats()
    told = ", ".join(f"{stats['jobs_' + word]} {word}" for word in ("done", "failed", "dropped", "refused"))
    log.info("stopped: %s", told)


def _write(path: Path | None, there: bool) -> None:
    if path is None:
        return
    try:
        if there:
            path.write_text(f"{os.getpid()}\n")
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise Wrong(f"--ready-file: {error}") from None


def _imported(spec: str, modules: list[str]) -> Cache:
    name, _, path = spec.partition(":")
    if not name or not path:
        raise Wrong(f"{spec!r} must be MODULE:CACHE, such as shop.cache:cache")
    sys.path.insert(0, os.getcwd())
    found = _module(name)
    for each in modules:
        _module(each)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Wrong(f"{spec!r}: {name} has no {path!r}") from None
    if not isinstance(found, Cache):
        raise Wrong(f"{spec!r} is a {type(found).__name__}, not a tiercache.Cache")
    if found._process.node.jobs is None:
        raise Wrong(f"{spec!r} is a cache without Redis: no process could leave it anything")
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if "importlib" in at.filename else f" ({at.filename}, line {at.lineno})"
        raise Wrong(f"can't import {name!r}: {type(error).__name__}: {' '.join(str(error).split())}{where}") from error


def _log_to_stderr() -> None:
    # Where the program that was imported has not said where its log goes.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
