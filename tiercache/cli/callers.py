"""The callers of one process of the herd: they all ask at one moment, and note what they get.

The process talks with the demo by lines: the job comes on stdin, then "go <monotonic time>", then "end".
Where stdin ends without "end" the process leaves at once, so that no herd outlives its demo.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tiercache.cli.database import PopularItem
from tiercache.cli.journal import Section

Item = dict[str, int]


@dataclass(frozen=True)
class Job:
    """What one process has to do."""

    arm: str
    index: int
    callers: int
    processes: int
    url: str
    mark: str
    journal: str
    query: dict[str, Any]
    expected: Item


@dataclass
class Callers:
    """The callers of this process and what they tell: the journal's section, errors, counters."""

    job: Job
    section: Section
    errors: list[str] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=dict)
    go: threading.Event = field(default_factory=threading.Event)
    begin: float = 0.0
    end: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def query(self) -> Item:
        """The slow query, noted in the journal: every arm's loader."""
        with self._lock:
            number = self.section.query_starts()
        item = PopularItem(**self.job.query)()
        self.section.query_ends(number)
        return item

    def answered(self, caller: int, item: object) -> None:
        """Note the answer of a caller, if it is the right one."""
        moment = time.monotonic()
        if item == self.job.expected:
            self.section.answer(caller, moment)
        else:
            self.failed(ValueError(f"a caller got {item!r} instead of {self.job.expected!r}"))

    def failed(self, error: Exception) -> None:
        with self._lock:
            self.errors.append(f"{type(error).__name__}: {error}")

    def listen(self) -> None:
        """Follow the lines on stdin; where they end without "end", the demo is gone."""
        for line in sys.stdin:
            word, _, moment = line.strip().partition(" ")
            if word == "go":
                self.begin = float(moment)
                self.go.set()
            elif word == "end":
                return self.end.set()
        os._exit(1)

    def in_threads(self, ask: Callable[[], object], warm_up: Callable[[], object]) -> None:
        """One thread per caller; each warms up, and all ask at the same moment."""
        warm = threading.Semaphore(0)

        def caller(number: int) -> None:
            try:
                try:
                    warm_up()
                finally:
                    warm.release()
                self.go.wait()
                time.sleep(max(0.0, self.begin - time.monotonic()))
                self.section.asked(number)
                self.answered(number, ask())
            except Exception as error:
                self.failed(error)

        threads = [threading.Thread(target=caller, args=(n,), daemon=True) for n in range(self.job.callers)]
        for thread in threads:
            thread.start()
        for _ in threads:
            warm.acquire()
        self.section.ready()
        for thread in threads:
            thread.join()

    async def in_tasks(self, ask: Callable[[], Awaitable[object]], warm_up: Callable[[], Awaitable[object]]) -> None:
        """One task per caller on one event loop; all ask at the same moment."""
        go = asyncio.Event()

        async def caller(number: int) -> None:
            await go.wait()
            self.section.asked(number)
            try:
                self.answered(number, await ask())
            except Exception as error:
                self.failed(error)

        await warm_up()
        tasks = [asyncio.create_task(caller(number)) for number in range(self.job.callers)]
        self.section.ready()
        await asyncio.to_thread(self.go.wait)
        await asyncio.sleep(max(0.0, self.begin - time.monotonic()))
        go.set()
        await asyncio.gather(*tasks)
