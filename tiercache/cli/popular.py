"""`tiercache demo popular`: one item that many ask for, past several of its ends, under three policies at once."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiercache.cli.children import Children
from tiercache.cli.journal import Journal, Span

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("no early refresh", {"beta": 0}),
    "xfetch": ("XFetch, the default", {}),
    "ahead": ("refresh ahead", {"beta": 0, "refresh_ahead": True}),
}
QUICK: dict[str, Any] = {"processes": 2, "ttl": 1.2, "load": 0.4, "seconds": 5.0}
LOOK_SECONDS = 0.25
_SPARE_SECONDS = 30.0  # of calls, for a machine on which the last process is ready late


@dataclass(frozen=True)
class Plan:
    """What all arms have in common; times in seconds, `pace` in calls per second of one caller."""

    url: str
    run: str
    directory: Path
    processes: int = 3
    callers: int = 4
    pace: float = 50.0
    ttl: float = 3.0
    load: float = 1.0
    seconds: float = 18.0

    def job(self, arm: str, index: int) -> dict[str, Any]:
        """What a process of an arm has to do."""
        rules = {"ttl": self.ttl, "jitter": 0, "stale_if_error": 0, "half_life": self.ttl}
        return {
            "url": self.url,
            "mark": f"tiercache-demo-{self.run}-{arm}",
            "policy": rules | ARMS[arm][1],
            "journal": str(self.journal(arm)),
            "index": index,
            "processes": self.processes,
            "callers": self.callers,
            "calls": self.calls,
            "pace": self.pace,
            "load": self.load,
        }

    def journal(self, arm: str) -> Path:
        return self.directory / f"{arm}.journal"

    @property
    def calls(self) -> int:
        """Of one process, at most."""
        return self.callers * int((self.seconds + _SPARE_SECONDS) * self.pace)


@dataclass(frozen=True)
class Course:
    """What happened in one arm from `begin` on, in monotonic seconds; the loads include earlier ones."""

    arm: str
    begin: float
    stop: float
    calls: list[Span]
    waited: list[Span]
    loads: list[Span]
    errors: list[str]
    stats: dict[str, int]

    @property
    def title(self) -> str:
        return ARMS[self.arm][0]


Seen = dict[str, tuple[int, float]]  # by arm: loads so far, the longest wait so far
Watcher = Callable[[float, Seen], None]  # seconds since the begin


def run_arms(plan: Plan, watch: Watcher, check: Callable[[], None]) -> list[Course]:
    """Run all arms side by side; `check` may raise to end it. No process is left in any case."""
    with contextlib.ExitStack() as stack:
        journals, children = {}, {}
        for arm in ARMS:
            journals[arm] = stack.enter_context(Journal(plan.journal(arm), plan.processes, plan.calls))
            jobs = [plan.job(arm, index) for index in range(plan.processes)]
            children[arm] = stack.enter_context(Children(arm, "asking", jobs, plan.directory))
        for each in children.values():
            each.start(check)
        for arm, each in children.items():
            each.until(lambda arm=arm: all(section.is_ready for section in journals[arm].sections), check)  # type: ignore[misc]
        begin = looked = time.monotonic()

        def over() -> bool:
            nonlocal looked
            now = time.monotonic()
            for each in children.values():
                each.raise_if_one_ended()
            ended = now - begin >= plan.seconds
            if ended or now - looked >= LOOK_SECONDS:
                looked = now
                watch(now - begin, {arm: _seen(journal) for arm, journal in journals.items()})
            return ended

        children["none"].until(over, check, 2 * plan.seconds)
        stop = time.monotonic()
        for each in children.values():
            each.tell("end\n")
        reports = {arm: each.reports() for arm, each in children.items()}
        return [_course(arm, (begin, stop), journals[arm], reports[arm]) for arm in ARMS]


def _seen(journal: Journal) -> tuple[int, float]:
    return journal.queries, max(section.longest for section in journal.sections)


def _course(arm: str, times: tuple[float, float], journal: Journal, reports: list[dict[str, Any]]) -> Course:
    stats: dict[str, int] = {}
    waited, calls = [], [span for section in journal.sections for span in section.callers()]
    for section, report in zip(journal.sections, reports, strict=True):
        waited += [section.caller(number) for number in report["waited"]]
        for name, value in report["stats"].items():
            stats[name] = stats.get(name, 0) + value
    return Course(
        arm,
        *times,
        calls=[span for span in calls if span.end is None or span.end >= times[0]],
        waited=[span for span in waited if span.end is None or span.end >= times[0]],
        loads=sorted(
            (span for section in journal.sections for span in section.spans_of_queries()), key=lambda span: span.begin
        ),
        errors=[error for report in reports for error in report["errors"]],
        stats=stats,
    )
