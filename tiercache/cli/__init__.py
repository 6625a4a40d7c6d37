"""The `tiercache` command: this file knows the names of the commands, each command its own options."""

import argparse
import importlib.metadata
from typing import NoReturn

from tiercache.cli import demo, hot, inspect, invalidate, worker


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def version() -> str:
    """The installed version of the distribution, or "unknown" in a bare source tree."""
    try:
        return importlib.metadata.version("tiercache-client")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; bad options end in SystemExit(2)."""
    parser = _Parser(prog="tiercache", description="Tools around the tiercache cache client.")
    parser.add_argument("--version", action="version", version=f"tiercache {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in (demo, hot, inspect, invalidate, worker):
        command.add_command(commands)
    options = parser.parse_args(argv)
    code: int = options.run(options)
    return code
