"""What the benchmarks note: rows, each with the yardstick that it is to be compared with."""

import time
from collections.abc import Callable
from typing import Any

ROUND = 0.002  # seconds that a round of a timed call takes at least


class Row:
    """Notes the rows of a benchmark: `role` is ours, yardstick or peer; `against` names the yardstick's row."""

    def __init__(self, benchmark: Any, quick: bool) -> None:
        self._benchmark = benchmark
        self._rounds = 15 if quick else 40
        self._rows: list[dict[str, Any]] = []  # the results have them once the benchmark has come to its end

    def note(self, group: str, name: str, role: str, against: str = "", note: str = "", **found: Any) -> None:
        """Note a row, with whatever was found."""
        self._benchmark.group = group
        about = {"group": group, "name": name, "role": role, "against": against, "note": note}
        self._rows.append({name: value for name, value in about.items() if value} | found)

    def time(self, run: Callable[[int], Any], each: int = 1, least: int = 1) -> None:
        """Time run(n), which makes n times `each` calls, in rounds of some milliseconds and n of `least`, or more.

        Of one caller the smallest round counts, of `each` at a time the median: what they reach in the best round is
        the luck of the scheduler.
        """
        calls = _calls(run, least)
        self._benchmark.pedantic(run, args=(calls,), rounds=self._rounds, warmup_rounds=1)
        self._benchmark.extra_info.update(rows=self._rows, timed="min" if each == 1 else "median")
        stats = self._benchmark.stats.stats
        stats.data = [seconds / (calls * each) for seconds in stats.data]  # a row tells of one call, not of a round

    def once(self, run: Callable[[], Any]) -> Any:
        """Run something that measures itself, and pass on what it found."""
        found = self._benchmark.pedantic(run, rounds=1)
        self._benchmark.extra_info.update(rows=self._rows)
        return found


def _calls(run: Callable[[int], Any], calls: int) -> int:
    while min(_seconds(run, calls) for _ in range(3)) < ROUND:
        calls *= 2
    return calls


def _seconds(run: Callable[[int], Any], calls: int) -> float:
    start = time.perf_counter()
    run(calls)
    return time.perf_counter() - start
