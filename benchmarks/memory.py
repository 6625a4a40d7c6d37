"""What many entries take, measured in a fresh process for each cache: resident bytes, and a full garbage collection.

Keys and values are made before; all entries share one value. So what grows is what the cache adds.
"""

import ctypes
import functools
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from tiercache import Cache

VALUE = {"id": 42, "name": "popular item"}


def tiercache(keys: Sequence[str]) -> Any:
    cache = Cache(max_entries=len(keys))
    for key in keys:
        cache.set(key, VALUE, ttl=3600)
    assert cache.stats()["entries"] == len(keys)
    return cache


def lru_cache(keys: Sequence[str]) -> Any:
    function = functools.lru_cache(maxsize=len(keys))(lambda key: VALUE)
    for key in keys:
        function(key)
    return function


def plain_dict(keys: Sequence[str]) -> Any:
    return _filled({}, keys)


def cachetools_ttl(keys: Sequence[str]) -> Any:
    import cachetools

    return _filled(cachetools.TTLCache(len(keys), 3600), keys)


def cachebox_lru(keys: Sequence[str]) -> Any:
    import cachebox

    return _filled(cachebox.LRUCache(len(keys)), keys)


def cachebox_ttl(keys: Sequence[str]) -> Any:
    import cachebox

    return _filled(cachebox.TTLCache(len(keys), 3600), keys)


def cachebox_vttl(keys: Sequence[str]) -> Any:
    import cachebox

    cache: Any = cachebox.VTTLCache(len(keys))
    for key in keys:
        cache.insert(key, VALUE, 3600)
    return cache


def lru_dict(keys: Sequence[str]) -> Any:
    import lru

    return _filled(lru.LRU(len(keys)), keys)


def theine(keys: Sequence[str]) -> Any:
    import theine

    cache: Any = theine.Cache(len(keys))
    for key in keys:
        cache.set(key, VALUE, timedelta(hours=1))
    return cache


def _filled(cache: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        cache[key] = VALUE
    return cache


def measured(fill: Callable[[Sequence[str]], Any], entries: int) -> tuple[float, float]:
    """Bytes per entry and seconds that a full collection takes longer, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, fill, entries).result()


def _measured(fill: Callable[[Sequence[str]], Any], entries: int) -> tuple[float, float]:
    fill([f"warm:{number}" for number in range(100)])  # whatever is imported and made once
    keys = [f"key:{number}" for number in range(entries)]
    pause, resident = _collection(), _resident()
    cache = fill(keys)
    longer, more = _collection() - pause, _resident() - resident
    del cache
    return more / entries, longer


def _collection() -> float:
    """Processor seconds of a full collection, the shortest of five."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        gc.collect()
        times.append(time.thread_time() - start)
    return min(times)


def _resident() -> int:
    """Resident bytes, after what malloc keeps for later went back to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
