"""Caches of other libraries on Redis, as their documentation sets them up; used by the groups tier2, miss and herd."""

from typing import Any
from urllib.parse import urlsplit

UNPICKLES = "unpickles; no tier 1, no lifetime"


def dogpile(url: str, **arguments: Any) -> Any:
    """A region of dogpile.cache."""
    import dogpile.cache

    region = dogpile.cache.make_region()
    return region.configure("dogpile.cache.redis", expiration_time=3600, arguments={"url": url, **arguments})


def cashews(url: str) -> Any:
    """A cache of cashews."""
    from cashews import Cache

    cache = Cache()
    cache.setup(url)
    return cache


def aiocache(url: str) -> Any:
    """A cache of aiocache."""
    from aiocache import Cache

    address = urlsplit(url)
    return Cache(Cache.REDIS, endpoint=address.hostname, port=address.port)
