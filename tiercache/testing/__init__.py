"""For tests of one's own code: caches in memory that share a fleet, and a clock that only moves when told.

clock = SteppedClock()
fleet = MemoryRedis(clock)
one, other = MemoryCache(fleet), MemoryCache(fleet)   # two processes of one fleet
"""

from tiercache.testing.cache import MemoryCache, SteppedClock
from tiercache.testing.redis import MemoryRedis

__all__ = ["MemoryCache", "MemoryRedis", "SteppedClock"]
