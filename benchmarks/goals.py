"""The goals: what must be reached, and how it is read from the results."""

from collections.abc import Callable
from dataclasses import dataclass

from results import Results

Judge = Callable[[Results], tuple[str, bool] | None]


@dataclass(frozen=True)
class Goal:
    """`judge` gives the value to show and whether the goal is met; None where it was not measured."""

    what: str
    must: str
    judge: Judge


def at_most(limit: float, group: str, name: str, field: str = "seconds") -> Judge:
    """A row's figure is at most so many times its yardstick's."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row(group, name)
        ratio = results.ratio(row, field) if row else None
        return None if ratio is None else (f"{ratio:.2f} \N{MULTIPLICATION SIGN}", ratio <= limit)

    return judge


def at_least(limit: float, group: str, name: str) -> Judge:
    """A row's calls per second are at least so many times its yardstick's."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row(group, name)
        ratio = results.ratio(row) if row else None
        return None if ratio is None else (f"{1 / ratio:.1f} \N{MULTIPLICATION SIGN}", 1 / ratio >= limit)

    return judge
