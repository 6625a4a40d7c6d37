"""One arm of the demo: start its processes, let them go at one moment, watch, stop, collect."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tiercache.cli.database import PopularItem
from tiercache.cli.journal import Journal, Span
from tiercache.cli.monitor import CommandCount

TITLES = {
    "unprotected": "unprotected",
    "lock-and-retry": "get/lock/sleep/retry",
    "tiercache-threads": "tiercache, threads",
    "tiercache-asyncio": "tiercache, asyncio",
}
READY_SECONDS = 60.0
END_SECONDS = 15.0
TICK_SECONDS = 0.05
_GO_AHEAD_SECONDS = 0.2  # long enough for every thread to wake and sleep until the very moment
# The child gets our sys.path and nothing of the working directory: the same tiercache, wherever we run.
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tiercache.cli import arms; arms.main()"


class HerdError(Exception):
    """A process of the herd ended or never got ready; the text is one line."""


@dataclass(frozen=True)
class Plan:
    """What all arms have in common."""

    url: str
    own_server: bool
    run: str
    directory: Path
    processes: int
    callers: int
    limit: float
    query: PopularItem
    query_seconds: float
    expected: dict[str, int]

    def mark(self, arm: str) -> str:
        """In every key of an arm, and its namespace: `run` is random."""
        return f"tiercache-demo-{self.run}-{arm}"


@dataclass(frozen=True)
class Result:
    """What one arm did; times are monotonic seconds, `stop` is when it was looked at last."""

    arm: str
    begin: float
    stop: float
    stopped: bool
    queries: int
    answered: int
    callers: list[Span]
    queries_spans: list[Span]
    redis_commands: int | None
    why_no_commands: str
    errors: list[str]
    stats: dict[str, int]

    @property
    def title(self) -> str:
        return TITLES[self.arm]


Watcher = Callable[[int, int, float], None]  # answered, queries, seconds since the go


def run_arm(arm: str, plan: Plan, watch: Watcher, check: Callable[[], None]) -> Result:
    """Run one arm to its end or its limit; `check` may raise to end it. No process is left in any case."""
    path = plan.directory / f"{arm}.journal"
    with (
        Journal(path, plan.processes, plan.callers) as journal,
        CommandCount(plan.url, plan.mark(arm), only_marked=not plan.own_server) as count,
        _Children(arm, plan, path) as children,
    ):
        children.start(check)
        _until(lambda: all(section.is_ready for section in journal.sections), READY_SECONDS, children, check)
        count.begin()
        begin = time.monotonic() + _GO_AHEAD_SECONDS
        children.tell(f"go {begin!r}\n")

        def answered_by_all() -> bool:
            watch(journal.answered, journal.queries, max(0.0, time.monotonic() - begin))
            return all(section.is_done for section in journal.sections)

        limit = begin + plan.limit - time.monotonic()
        stopped = not _until(answered_by_all, limit, children, check, must=False)
        stop = time.monotonic()
        commands = count.end()
        reports = [] if stopped else children.reports()
        children.kill()
        return _result(arm, journal, (begin, stop, stopped), (commands, count.why), reports)


def _until(
    fact: Callable[[], bool],
    seconds: float,
    children: "_Children",
    check: Callable[[], None],
    must: bool = True,
) -> bool:
    deadline = time.monotonic() + seconds
    while not fact():
        check()
        children.raise_if_one_ended()
        if time.monotonic() > deadline:
            if must:
                raise HerdError(f"the herd's processes were not ready after {seconds:.0f} s")
            return False
        time.sleep(TICK_SECONDS)
    return True


def _result(
    arm: str,
    journal: Journal,
    times: tuple[float, float, bool],
    commands: tuple[int | None, str],
    reports: list[dict[str, Any]],
) -> Result:
    stats: dict[str, int] = {}
    for report in reports:
        for name, value in report["stats"].items():
            stats[name] = stats.get(name, 0) + value
    return Result(
        arm,
        *times,
        queries=journal.queries,
        answered=journal.answered,
        callers=[span for section in journal.sections for span in section.callers()],
        queries_spans=[span for section in journal.sections for span in section.spans_of_queries()],
        redis_commands=commands[0],
        why_no_commands=commands[1],
        errors=[error for report in reports for error in report["errors"]],
        stats=stats,
    )


class _Children:
    """The processes of one arm; leaving the context kills those that still run."""

    def __init__(self, arm: str, plan: Plan, journal: Path) -> None:
        self._arm = arm
        self._plan = plan
        self._journal = journal
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, check: Callable[[], None]) -> None:
        """Start them all and give each its job, which holds the URL: no password in an argument list."""
        for index in range(self._plan.processes):
            check()
            with open(self._errors_of(index), "wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            self._processes.append(process)
            self._write(process, json.dumps(self._job(index)) + "\n")

    def tell(self, line: str) -> None:
        """Send one line to all of them."""
        for process in self._processes:
            self._write(process, line)

    def reports(self) -> list[dict[str, Any]]:
        """Let them end, and collect what each has to say."""
        self.tell("end\n")
        reports = []
        for index, process in enumerate(self._processes):
            try:
                text, _ = process.communicate(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                raise HerdError(f"a process of arm {self._arm} did not end") from None
            if process.returncode:
                raise HerdError(self._why(index))
            reports.append(json.loads(text))
        return reports

    def raise_if_one_ended(self) -> None:
        for index, process in enumerate(self._processes):
            if process.poll() is not None:
                raise HerdError(self._why(index))

    def kill(self) -> None:
        """Kill what still runs: a query in progress is not waited for."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()
        self._processes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _write(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            process.wait(END_SECONDS)  # it ended; the next look at it says why
            self.raise_if_one_ended()

    def _job(self, index: int) -> dict[str, object]:
        plan = self._plan
        return {
            "arm": self._arm,
            "index": index,
            "callers": plan.callers,
            "processes": plan.processes,
            "url": plan.url,
            "mark": plan.mark(self._arm),
            "journal": str(self._journal),
            "query": plan.query.fields(),
            "expected": plan.expected,
        }

    def _errors_of(self, index: int) -> Path:
        return self._plan.directory / f"{self._arm}.{index}.err"

    def _why(self, index: int) -> str:
        lines = self._errors_of(index).read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        code = self._processes[index].returncode
        return f"a process of arm {self._arm} ended with code {code}: {last}"
