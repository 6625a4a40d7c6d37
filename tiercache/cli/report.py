"""What the demo found: the figures, the table and the JSON."""

import json
import math
import os
import platform
import sqlite3
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import redis

from tiercache.cli.herd import Plan, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Figures:
    """One arm in numbers. Waits are milliseconds beyond the query's own time; in an arm that was
    stopped, whoever was not answered counts as having waited until then."""

    queries: int
    answered: int
    callers: int
    median_ms: float
    p99_ms: float
    last_ms: float
    redis_commands: int | None
    stopped: bool
    seconds: float
    errors: list[str]
    bypasses: dict[str, int]


def figures(result: Result, plan: Plan) -> Figures:
    """The figures of one arm."""
    ends = [(span.begin, result.stop if span.end is None else span.end) for span in result.callers]
    waits = sorted(max(0.0, end - begin - plan.query_seconds) * 1000 for begin, end in ends) or [0.0]
    return Figures(
        queries=result.queries,
        answered=result.answered,
        callers=plan.processes * plan.callers,
        median_ms=_percentile(waits, 0.5),
        p99_ms=_percentile(waits, 0.99),
        last_ms=_percentile(waits, 1),
        redis_commands=result.redis_commands,
        stopped=result.stopped,
        seconds=round(max((end for _, end in ends), default=result.stop) - result.begin, 3),
        errors=result.errors,
        bypasses={name: count for name, count in result.stats.items() if name.startswith("bypass_")},
    )


def shortcomings(results: list[Result], plan: Plan) -> list[str]:
    """What tiercache did not keep of its promise, one line each: one query, every caller answered."""
    lines = []
    for result in results:
        if not result.arm.startswith("tiercache"):
            continue
        found = figures(result, plan)
        if found.queries != 1:
            bypasses = {name: count for name, count in found.bypasses.items() if count}
            lines.append(f"{result.title} made {found.queries} queries instead of 1 (bypasses: {bypasses or 'none'})")
        if found.answered != found.callers:
            why = f": {found.errors[0]}" if found.errors else ""
            lines.append(f"{result.title} answered {found.answered} of {found.callers} callers{why}")
    return lines


def empty_table(*headings: str) -> "Table":
    """A table with a row for each arm to come, and these columns of figures."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("arm", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def print_table(results: list[Result], plan: Plan, console: "Console") -> None:
    """The table of all arms, and what it needs to be read."""
    console.print(
        f"\n{plan.processes} processes x {plan.callers} callers ask for one expired item; "
        f"its query takes {plan.query_seconds * 1000:.0f} ms alone",
        highlight=False,
    )
    table = empty_table("queries", "median", "p99", "last", "answered", "commands")
    for result in results:
        table.add_row(result.title, *_cells(figures(result, plan)))
    console.print(table)
    console.print("median, p99, last: ms waited beyond the query's own time; commands: Redis", highlight=False)
    for result in results:
        if result.stopped:
            console.print(f"{result.title}: stopped after {plan.limit:.0f} s", highlight=False)
        if result.why_no_commands:
            console.print(f"{result.title}: commands not counted, {result.why_no_commands}", markup=False)
        if result.errors:
            console.print(f"{result.title}: {result.errors[0]}", markup=False, highlight=False)


def as_json(results: list[Result], plan: Plan, versions: dict[str, str]) -> str:
    """The same, for machines."""
    document = {
        "query_ms": round(plan.query_seconds * 1000, 1),
        "processes": plan.processes,
        "callers_per_process": plan.callers,
        "limit_seconds": plan.limit,
        "versions": versions,
        "arms": {result.arm: asdict(figures(result, plan)) for result in results},
    }
    return json.dumps(document, indent=2)


def versions(own: str, server: str) -> dict[str, str]:
    """What ran: `own` is tiercache's version, `server` the Redis server's."""
    return {
        "tiercache": own,
        "python": platform.python_version(),
        "redis_server": server,
        "redis_py": redis.__version__,
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
    }


def _percentile(ordered: list[float], share: float) -> float:
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)


def _cells(found: Figures) -> list[str]:
    unanswered = found.callers - found.answered
    shares = (0.5, 0.99, 1)
    waits = []
    for share, wait in zip(shares, (found.median_ms, found.p99_ms, found.last_ms), strict=True):
        is_known = found.callers - math.ceil(share * found.callers) >= unanswered
        waits.append(f"{'' if is_known else '>'}{wait:,.0f}")
    commands = "?" if found.redis_commands is None else f"{found.redis_commands:,}"
    return [f"{found.queries:,}", *waits, f"{found.answered}/{found.callers}", commands]
