"""The slow query of the demo: a SQLite database and what its popular item's page needs from it."""

import math
import sqlite3
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

TARGET_SECONDS = 0.3
POPULAR = 42
WEEKS = 520

_SCHEMA = """
CREATE TABLE week (number INTEGER PRIMARY KEY);
CREATE TABLE sale (id INTEGER PRIMARY KEY, item INTEGER NOT NULL, week INTEGER NOT NULL,
                   quantity INTEGER NOT NULL, price INTEGER NOT NULL);
"""
_FILL_WEEKS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :weeks)
INSERT INTO week SELECT i FROM n
"""
_FILL_SALES = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO sale
SELECT i, i * 2654435761 % 5000, 1 + i * 40503 % :weeks, 1 + i * 7919 % 9, 100 + i * 104729 % 9900 FROM n
"""
# How the item sold since each of the first weeks, and its share of the turnover. No index helps, nothing
# is sorted: the time is in proportion to weeks x rows, and the memory of a connection stays constant.
_POPULAR_ITEM = """
SELECT SUM(CASE WHEN sale.item = :item THEN sale.quantity END),
       SUM(CASE WHEN sale.item = :item THEN sale.quantity * sale.price END),
       SUM(sale.quantity * sale.price)
FROM week CROSS JOIN sale
WHERE week.number <= :weeks AND sale.id <= :rows AND sale.week >= week.number
"""


@dataclass(frozen=True)
class PopularItem:
    """The query, with the amount of work that it was calibrated to: call it to run it."""

    path: str
    weeks: int
    rows: int

    def __call__(self) -> dict[str, int]:
        """Run the query on a connection of its own, read-only."""
        connection = sqlite3.connect(f"file:{quote(self.path)}?mode=ro", uri=True, timeout=30)
        try:
            arguments = {"item": POPULAR, "weeks": self.weeks, "rows": self.rows}
            sold, revenue, turnover = connection.execute(_POPULAR_ITEM, arguments).fetchone()
        finally:
            connection.close()
        return {"item": POPULAR, "sold": sold or 0, "revenue": revenue or 0, "turnover": turnover or 0}

    @property
    def work(self) -> int:
        """Rows looked at."""
        return self.weeks * self.rows

    def with_work(self, work: float, table_rows: int) -> "PopularItem":
        """The query that looks at so many rows, some of them more than once."""
        weeks = min(WEEKS, max(1, math.ceil(work / table_rows)))
        return PopularItem(self.path, weeks, min(table_rows, max(1, round(work / weeks))))

    def times(self, runs: int) -> list[float]:
        """How long some runs take, in seconds."""
        return [self._one_run() for _ in range(runs)]

    def _one_run(self) -> float:
        begin = time.perf_counter()
        self()
        return time.perf_counter() - begin

    def fields(self) -> dict[str, object]:
        """What makes an equal query in another process."""
        return asdict(self)


def create(path: Path, rows: int) -> None:
    """Make the database: `rows` sales of 5,000 items in ten years."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript(_SCHEMA)
        connection.execute(_FILL_WEEKS, {"weeks": WEEKS})
        connection.execute(_FILL_SALES, {"rows": rows, "weeks": WEEKS})
        connection.commit()
    finally:
        connection.close()


def calibrate(
    path: Path, rows: int, check: Callable[[], None], rounds: int = 4, target: float = TARGET_SECONDS
) -> tuple[PopularItem, float]:
    """The query that takes `target` seconds here and now when it runs alone, and the seconds measured.

    The runs of all rounds count for the time per row, so that one noisy moment does not mislead.
    `check` is called between the rounds and may raise to end the calibration.
    """
    query = PopularItem(str(path), 1, rows)
    per_row = min(query.times(2)) / query.work
    costs: list[float] = []
    for _ in range(rounds):
        check()
        query = query.with_work(target / per_row, rows)
        runs = query.times(5)
        if abs(statistics.median(runs) / target - 1) < 0.05:
            break
        costs += [seconds / query.work for seconds in runs]
        per_row = statistics.median(costs)
    check()
    return query, statistics.median(runs)
