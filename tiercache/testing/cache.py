"""A cache whose second tier is in memory, and a clock that only moves when told."""

from collections.abc import Callable
from typing import Any

from tiercache.cache import Cache
from tiercache.local.face import monotonic
from tiercache.testing.redis import MemoryRedis, MemoryWire


class SteppedClock:
    """Monotonic seconds that move by `step` alone."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def step(self, seconds: float) -> None:
        """Let that much time pass."""
        self._now += seconds


class MemoryCache(Cache):
    """A cache whose second tier is a MemoryRedis: the protocol as it is, without a server.

    `clock`: whose seconds tier 1 counts (default: the fleet's). The other settings are those of `Cache`.
    """

    __slots__ = ("_memory", "_test_clock")

    def __init__(
        self, memory: MemoryRedis | None = None, *, clock: Callable[[], float] | None = None, **settings: Any
    ) -> None:
        self._memory = memory or MemoryRedis(clock or monotonic)
        self._test_clock = clock or (None if self._memory.clock is monotonic else self._memory.clock)
        super().__init__(None, **settings)

    def _clock(self) -> Callable[[], float] | None:
        return self._test_clock

    def _wire_to(self, *unused: Any) -> Any:
        return MemoryWire(self._memory)
