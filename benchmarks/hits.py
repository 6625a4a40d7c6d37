"""The hits that test_hit.py times and gate.py counts: each a statement beside the yardstick's."""

import asyncio
import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tiercache import Cache

EMPTY = "pass"


@dataclass(frozen=True)
class Hit:
    """A hit of ours and the call that it is compared with."""

    group: str
    name: str
    ours: str
    yardstick: str


YARDSTICKS = {
    "lru('key')": "functools.lru_cache, one str",
    "lru(42)": "functools.lru_cache, one int",
    "lru_two(42, 'key')": "functools.lru_cache, two arguments",
    "lru(item=42)": "functools.lru_cache, one keyword",
    "lru_repository.find(42)": "functools.lru_cache, method",
    "await nothing()": "an empty coroutine, awaited",
}
HITS = (
    Hit("hit", "`get`", "cache.get('key')", "lru('key')"),
    Hit("hit", "`get_or_load`, `ttl=60`", "cache.get_or_load('key', load, ttl=60)", "lru('key')"),
    Hit("hit-decorated", "decorated, one int", "one(42)", "lru(42)"),
    Hit("hit-decorated", "decorated, one str", "one('key')", "lru('key')"),
    Hit("hit-decorated", "decorated, two arguments", "two(42, 'key')", "lru_two(42, 'key')"),
    Hit("hit-decorated", "decorated, one keyword", "one(item=42)", "lru(item=42)"),
    Hit("hit-decorated", "decorated method", "repository.find(42)", "lru_repository.find(42)"),
    Hit("hit-async", "decorated, awaited", "await a_one(42)", "await nothing()"),
)


def load() -> int:
    """The loader of a hit: it never runs."""
    raise AssertionError("a hit runs no loader")


def names() -> dict[str, Any]:
    """What the statements name: a cache without Redis, functions of ours and of functools, everything loaded."""
    cache = Cache()
    cache.set("key", 1, ttl=3600)

    @cache.cached("one:{item}", ttl=3600)
    def one(item: object) -> object:
        return item

    @cache.cached("two:{item}:{name}", ttl=3600)
    def two(item: int, name: str) -> int:
        return item

    @cache.cached("a_one:{item}", ttl=3600)
    async def a_one(item: int) -> int:
        return item

    async def nothing() -> None:
        pass

    class Repository:
        @cache.cached("found:{item}", ttl=3600)
        def find(self, item: int) -> int:
            return item

    class LruRepository:
        find = functools.lru_cache(maxsize=128)(lambda self, item: item)

    found: dict[str, Any] = {
        "cache": cache,
        "load": load,
        "one": one,
        "two": two,
        "a_one": a_one,
        "nothing": nothing,
        "repository": Repository(),
        "lru": functools.lru_cache(maxsize=128)(lambda item: item),
        "lru_two": functools.lru_cache(maxsize=128)(lambda item, name: item),
        "lru_repository": LruRepository(),
    }
    for hit in HITS:
        if hit.group != "hit-async":
            exec(f"{hit.ours}; {hit.yardstick}", found)
    asyncio.run(asyncio.wait_for(a_one(42), 10))
    return found


def loop(statement: str, names: dict[str, Any]) -> Callable[[int], Any]:
    """A function that runs the statement so many times; a coroutine function, if it awaits something."""
    colour = "async def" if "await " in statement else "def"
    used = [name for name in names if re.search(rf"\b{name}\b", statement)]
    scope: dict[str, Any] = {}
    code = f"{colour} loop(repeat, {', '.join([*used, 'times'])}):\n for _ in repeat(None, times):\n  {statement}"
    exec(code, scope)
    return functools.partial(scope["loop"], itertools.repeat, *(names[name] for name in used))
