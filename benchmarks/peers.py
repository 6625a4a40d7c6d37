"""Other caches, each in the use that its documentation shows, with what it does less or more than we do in it.

A peer that is not installed (extra `bench`) is skipped with a message.
"""

import datetime
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pytest

HOUR = datetime.timedelta(hours=1)
DISTRIBUTIONS = (
    *("cachetools", "cachebox", "theine", "lru-dict", "async-lru", "dogpile.cache"),
    *("cashews", "aiocache", "diskcache", "redis", "hiredis", "uvloop"),
)


@dataclass(frozen=True)
class Peer:
    """A hit of another cache: `make` gives what `statement` names, loaded and warm."""

    group: str
    name: str
    module: str
    statement: str
    make: Callable[[], dict[str, Any]]
    note: str

    def ready(self) -> dict[str, Any]:
        """What the statement names; skips the test if the module is missing."""
        needed(self.module)
        return self.make()


def needed(module: str) -> Any:
    """The module, or a skipped test."""
    return pytest.importorskip(module, reason=f"{module} is not installed (extra bench)")


def versions() -> dict[str, str]:
    """The versions of all that is compared, where it is installed."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def identity(item: object) -> object:
    """What the decorated functions do."""
    return item


async def awaited_identity(item: object) -> object:
    """What the decorated coroutine functions do."""
    return item


def _filled(cache: Any) -> dict[str, Any]:
    cache["key"] = 1
    return {"peer": cache}


def _called(function: Any) -> dict[str, Any]:
    function(42)
    return {"peer": function}


def _lru_dict() -> dict[str, Any]:
    import lru

    return _filled(lru.LRU(128))


def _cachebox(kind: str, *arguments: float) -> dict[str, Any]:
    import cachebox

    return _filled(getattr(cachebox, kind)(128, *arguments))


def _cachetools() -> dict[str, Any]:
    import cachetools

    return {**_filled(cachetools.TTLCache(128, 3600)), "lock": threading.Lock()}


def _theine() -> dict[str, Any]:
    import theine

    cache: Any = theine.Cache(128)
    cache.set("key", 1, HOUR)
    return {"peer": cache}


def _dogpile() -> Any:
    import dogpile.cache

    return dogpile.cache.make_region().configure("dogpile.cache.memory", expiration_time=3600)


def _dogpile_get() -> dict[str, Any]:
    region = _dogpile()
    region.set("key", 1)
    return {"peer": region}


def _dogpile_decorated() -> dict[str, Any]:
    return _called(_dogpile().cache_on_arguments()(identity))


def _cachetools_decorated() -> dict[str, Any]:
    import cachetools

    decorator = cachetools.cached(cachetools.TTLCache(128, 3600), lock=threading.Lock())
    return _called(decorator(identity))


def _cachebox_decorated() -> dict[str, Any]:
    import cachebox

    return _called(cachebox.cached(cachebox.TTLCache(128, 3600))(identity))


def _theine_decorated() -> dict[str, Any]:
    import theine

    return _called(theine.Memoize(128, HOUR)(identity))


def _diskcache() -> dict[str, Any]:
    import diskcache

    folder = tempfile.TemporaryDirectory()
    cache = diskcache.Cache(folder.name)
    return {**_called(diskcache.memoize_stampede(cache, expire=3600)(identity)), "ends": (cache.close, folder.cleanup)}


def _async_lru() -> dict[str, Any]:
    import async_lru

    return {"peer": async_lru.alru_cache(maxsize=128, ttl=3600)(awaited_identity)}


def _cachebox_awaited() -> dict[str, Any]:
    import cachebox

    return {"peer": cachebox.cached(cachebox.TTLCache(128, 3600))(awaited_identity)}


def _aiocache() -> dict[str, Any]:
    import aiocache

    return {"peer": aiocache.cached(ttl=3600)(awaited_identity)}


def _cashews() -> dict[str, Any]:
    import cashews

    cache = cashews.Cache()
    cache.setup("mem://")
    return {"peer": cache(ttl=3600, key="one:{item}")(awaited_identity)}


NO_TTL = "no ttl, no early refresh"
NO_REFRESH = "no early refresh"
_GET, _CALL, _AWAIT = "peer.get('key')", "peer(42)", "await peer(42)"

PEERS = (
    Peer("hit", "lru-dict, `get`", "lru", _GET, _lru_dict, NO_TTL),
    Peer("hit", "cachebox, `LRUCache.get`", "cachebox", _GET, lambda: _cachebox("LRUCache"), NO_TTL),
    Peer("hit", "cachebox, `TTLCache.get`", "cachebox", _GET, lambda: _cachebox("TTLCache", 3600), NO_REFRESH),
    Peer("hit", "cachetools, `TTLCache.get` and a lock", "cachetools", f"with lock: {_GET}", _cachetools, NO_REFRESH),
    Peer("hit", "theine, `get`", "theine", _GET, _theine, "no early refresh; counts how often each key is read"),
    Peer("hit", "dogpile.cache, memory, `get`", "dogpile.cache", _GET, _dogpile_get, "unbounded"),
    Peer("hit-decorated", "cachetools `cached`, a lock", "cachetools", _CALL, _cachetools_decorated, NO_REFRESH),
    Peer("hit-decorated", "cachebox `cached`", "cachebox", _CALL, _cachebox_decorated, NO_REFRESH),
    Peer("hit-decorated", "theine `Memoize`", "theine", _CALL, _theine_decorated, NO_REFRESH),
    Peer(
        "hit-decorated", "dogpile.cache `cache_on_arguments`", "dogpile.cache", _CALL, _dogpile_decorated, "unbounded"
    ),
    Peer(
        "hit-decorated",
        "diskcache `memoize_stampede`",
        "diskcache",
        _CALL,
        _diskcache,
        "reads SQLite: shared by processes",
    ),
    Peer("hit-async", "async_lru `alru_cache`", "async_lru", _AWAIT, _async_lru, NO_REFRESH),
    Peer("hit-async", "cachebox `cached`", "cachebox", _AWAIT, _cachebox_awaited, NO_REFRESH),
    Peer("hit-async", "aiocache `cached`, memory", "aiocache", _AWAIT, _aiocache, "unbounded; no single flight"),
    Peer("hit-async", "cashews, memory", "cashews", _AWAIT, _cashews, "no single flight"),
)
