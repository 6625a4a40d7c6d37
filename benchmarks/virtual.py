"""A fleet in one thread and in virtual time: the shipped code on an event loop that never sleeps.

What a day of a popular item costs is simulated in seconds this way: `Loop.time` moves on to the next timer at once,
the second tier is `tiercache.testing.MemoryRedis`, and what the timer's thread does is done by the loop.
"""

import asyncio
import math
import selectors
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tiercache import Policy
from tiercache.local.ready import Ready
from tiercache.remote.timer import Timer
from tiercache.testing import MemoryCache, MemoryRedis

HOUR = 3600.0
LONGEST_GAP = 10.0  # seconds after which the rate is looked at again


class _Selector(selectors.DefaultSelector):
    """Passes the time instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if timeout is None and not events:
            raise RuntimeError("everybody waits, and nothing will happen any more")
        self.now += max(timeout or 0.0, 0.0)
        return events


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves on to the next timer as soon as nothing else is to be done."""

    def __init__(self) -> None:
        self._passing = _Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.now


class LoopTimer(Timer):
    """The shipped timer; the loop takes its turns."""

    def __init__(self, cache: MemoryCache, loop: Loop) -> None:
        process = cache._process
        super().__init__(process.node.remote, process.aio, lambda turn: turn, process.node.now, process.node.tell)
        self._loop = loop
        self._look_at: asyncio.TimerHandle | None = None
        self._turning: asyncio.Task[None] | None = None

    def _wake(self) -> None:
        if not self._closing:
            self._look_in(0.0)

    def _look_in(self, seconds: float) -> None:
        if self._look_at is not None:
            self._look_at.cancel()
        self._look_at = self._loop.call_later(seconds, self._look) if seconds < math.inf else None

    def _look(self) -> None:
        if self._turning is None:
            pause = self.pause()
            if pause > 0:
                self._look_in(pause)
            else:
                self._turning = self._loop.create_task(self._take_turn())

    async def _take_turn(self) -> None:
        try:
            await self.turn()
        finally:
            self._turning = None
            if not self._closing:
                self._look_in(self.pause())


@dataclass(frozen=True)
class Item:
    """One item: how often it is asked for, calls per second of the whole fleet at a time, and its loader's seconds."""

    rate: Callable[[float], float]
    load: float
    hours: int = 1
    processes: int = 4
    ttl: float = 300.0


@dataclass
class Course:
    """What happened, by the hour."""

    calls: Counter[int] = field(default_factory=Counter)
    waited: Counter[int] = field(default_factory=Counter)
    loads: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0  # wait, in seconds
    stats: Counter[str] = field(default_factory=Counter)


def simulate(item: Item, policy: dict[str, Any], seed: int = 1) -> Course:
    """An item's course under a policy; the first load, of the empty cache, is left out."""
    loop = Loop()
    try:
        return loop.run_until_complete(_Fleet(loop, item, policy, Random(seed)).run())
    finally:
        loop.close()


class _Fleet:
    def __init__(self, loop: Loop, item: Item, policy: dict[str, Any], rng: Random) -> None:
        self.loop, self.item, self.rng, self.course = loop, item, rng, Course()
        self.begin = math.inf
        memory = MemoryRedis(loop.time)
        longest = max(60.0, 2 * item.load)
        rules = Policy(**{"ttl": item.ttl, "max_load": longest, **policy})
        self.caches = [MemoryCache(memory, clock=loop.time, policy=rules) for _ in range(item.processes)]
        for cache in self.caches:
            node = cache._process.node
            node.timer = LoopTimer(cache, loop)
            node.draw = lambda: 1.0 - rng.random()
            node.token = lambda: rng.randbytes(16)

    async def run(self) -> Course:
        for cache in self.caches:
            await cache.aget_or_load("item", self.load)
        self.begin = self.loop.time()
        end = self.begin + self.item.hours * HOUR
        while self.loop.time() < end:
            rate = self.item.rate(self.loop.time() - self.begin)
            gap = self.rng.expovariate(rate) if rate > 0 else math.inf
            await asyncio.sleep(min(gap, LONGEST_GAP, end - self.loop.time() + 1e-6))
            if gap <= LONGEST_GAP and self.loop.time() < end:
                self.call(self.rng.choice(self.caches))
        return await self.end()

    def call(self, cache: MemoryCache) -> None:
        self.course.calls[self.hour()] += 1
        answer = cache.aget_or_load("item", self.load)
        if not isinstance(answer, Ready):  # it is no hit, which has the value already
            self.loop.create_task(self.ask(answer))

    async def ask(self, answer: Any) -> None:
        asked, hour = self.loop.time(), self.hour()
        await answer
        passed = self.loop.time() - asked
        if passed > 0:  # Redis takes no time here: only the loader does
            self.course.waited[hour] += 1
            self.course.longest = max(self.course.longest, passed)

    async def load(self) -> float:
        if self.begin < math.inf:
            self.course.loads[self.hour()] += 1
        await asyncio.sleep(self.item.load)
        return self.loop.time()

    def hour(self) -> int:
        return int((self.loop.time() - self.begin) / HOUR)

    async def end(self) -> Course:
        for cache in self.caches:
            self.course.stats.update(cache.stats())
            cache.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self.course
