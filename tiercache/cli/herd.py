"""One arm of the demo: start its processes, let them go at one moment, watch, stop, collect."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiercache.cli.children import Children
from tiercache.cli.database import PopularItem
from tiercache.cli.journal import Journal, Span
from tiercache.cli.monitor import CommandCount

TITLES = {
    "unprotected": "unprotected",
    "lock-and-retry": "get/lock/sleep/retry",
    "tiercache-threads": "tiercache, threads",
    "tiercache-asyncio": "tiercache, asyncio",
}
_GO_AHEAD_SECONDS = 0.2  # long enough for every thread to wake and sleep until the very moment


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
        Children(
            arm, "arms", [_job(arm, plan, path, index) for index in range(plan.processes)], plan.directory
        ) as herd,
    ):
        herd.start(check)
        herd.until(lambda: all(section.is_ready for section in journal.sections), check)
        count.begin()
        begin = time.monotonic() + _GO_AHEAD_SECONDS
        herd.tell(f"go {begin!r}\n")

        def answered_by_all() -> bool:
            watch(journal.answered, journal.queries, max(0.0, time.monotonic() - begin))
            return all(section.is_done for section in journal.sections)

        limit = begin + plan.limit - time.monotonic()
        stopped = not herd.until(answered_by_all, check, limit, must=False)
        stop = time.monotonic()
        commands = count.end()
        if not stopped:
            herd.tell("end\n")
        reports = [] if stopped else herd.reports()
        herd.kill()
        return _result(arm, journal, (begin, stop, stopped), (commands, count.why), reports)


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


def _job(arm: str, plan: Plan, journal: Path, index: int) -> dict[str, object]:
    return {
        "arm": arm,
        "index": index,
        "callers": plan.callers,
        "processes": plan.processes,
        "url": plan.url,
        "mark": plan.mark(arm),
        "journal": str(journal),
        "query": plan.query.fields(),
        "expected": plan.expected,
    }
