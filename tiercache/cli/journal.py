"""What happened in a herd, in memory shared by its processes: it outlives those that are killed.

One file of doubles, mapped. Each process has a section of its own and writes nowhere else; every cell is
written once, apart from the counts, and has one writer at a time. Times are of the monotonic clock,
which the processes of one host share; 0 stands for "not yet".
"""

import mmap
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_READY, _DONE, _QUERIES, _HEAD = 0, 1, 2, 3


@dataclass(frozen=True)
class Span:
    """From asking to answer, or from a query's start to its end; an `end` of None: it never came."""

    begin: float
    end: float | None


class Section:
    """One process's part of the journal."""

    def __init__(self, cells: "memoryview[float]", callers: int) -> None:
        self._head = cells[:_HEAD]
        self._asked, self._answered, self._started, self._ended = (
            cells[_HEAD + part * callers : _HEAD + (part + 1) * callers] for part in range(4)
        )

    @property
    def is_ready(self) -> bool:
        """Every caller waits for the go."""
        return bool(self._head[_READY])

    @property
    def is_done(self) -> bool:
        """Every caller was answered or failed."""
        return bool(self._head[_DONE])

    @property
    def queries(self) -> int:
        """The queries started so far, also those beyond the room for their times."""
        return int(self._head[_QUERIES])

    @property
    def answered(self) -> int:
        """The callers answered so far."""
        return sum(1 for moment in self._answered if moment)

    @property
    def longest(self) -> float:
        """The longest wait of a caller answered so far, in seconds."""
        return max((end - begin for begin, end in zip(self._asked, self._answered, strict=True) if end), default=0.0)

    def caller(self, number: int) -> Span:
        """One of them."""
        return Span(self._asked[number], self._answered[number] or None)

    def callers(self) -> list[Span]:
        """Each caller that asked, from its asking to its answer."""
        return _spans(self._asked, self._answered)

    def spans_of_queries(self) -> list[Span]:
        """Each query, from its start to its end."""
        return _spans(self._started, self._ended)

    def ready(self) -> None:
        self._head[_READY] = 1

    def done(self) -> None:
        self._head[_DONE] = 1

    def asked(self, caller: int) -> None:
        self._asked[caller] = time.monotonic()

    def answer(self, caller: int, moment: float) -> None:
        self._answered[caller] = moment

    def query_starts(self) -> int:
        """Count a query and return its number; the caller holds this process's lock."""
        number = self.queries
        if number < len(self._started):
            self._started[number] = time.monotonic()
        self._head[_QUERIES] = number + 1
        return number

    def query_ends(self, number: int) -> None:
        if number < len(self._ended):
            self._ended[number] = time.monotonic()

    def close(self) -> None:
        for cells in (self._head, self._asked, self._answered, self._started, self._ended):
            cells.release()


class Journal:
    """The sections of all processes; the first to open the file makes it."""

    def __init__(self, path: Path, processes: int, callers: int) -> None:
        width = _HEAD + 4 * callers
        size = processes * width * 8
        with open(path, "a+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._bytes = memoryview(self._map)
        self._cells = self._bytes.cast("d")
        self.sections = [
            Section(self._cells[number * width : (number + 1) * width], callers) for number in range(processes)
        ]

    @property
    def answered(self) -> int:
        return sum(section.answered for section in self.sections)

    @property
    def queries(self) -> int:
        return sum(section.queries for section in self.sections)

    def close(self) -> None:
        for section in self.sections:
            section.close()
        self._cells.release()
        self._bytes.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _spans(begins: "memoryview[float]", ends: "memoryview[float]") -> list[Span]:
    return [Span(begin, end or None) for begin, end in zip(begins, ends, strict=True) if begin]
