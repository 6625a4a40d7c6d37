"""A user's program: clean under mypy --strict and pyright, and it runs (see test_typing)."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_type

from tiercache import (
    Cache,
    CacheClosed,
    CodecError,
    Loaded,
    LoadFailed,
    LoadTimeout,
    MsgpackCodec,
    Policy,
    PolicyError,
    ReentrantLoadError,
    RemoteUnavailable,
    Result,
    TierCacheError,
)


@dataclass
class Item:
    id: int
    name: str


policy = Policy(ttl=300, jitter=0.2, negative_errors=(KeyError,), on_abandon="finish", refresh="caller", timeout=None)
cache = Cache(policy=policy, max_entries=1000, codec=MsgpackCodec(), compress="zlib", weigh=lambda value: 1)
cache.register(Item)


# Functions.


@cache.cached("item:{item_id}:{language}", ttl=3600)
def get_item(item_id: int, *, language: str = "en") -> Item:
    return Item(item_id, language)


@cache.cached
async def fetch_item(item_id: int) -> Item | None:
    return Item(item_id, "fetched") if item_id > 0 else None


@cache.cached(key=lambda user, page=1: f"page:{user}:{page}", ignore=(), version="2", copy=True, negative_ttl=0)
def get_page(user: str, page: int = 1) -> list[str]:
    return [user, str(page)]


async def fetch_text(name: str, size: int) -> str:
    return name * size


text = cache.cached("text:{name}:{size}")(fetch_text)


@cache.cached
def get_token(name: str) -> Loaded[str]:
    return Loaded(name, ttl=5, stale_if_error=0)


@cache.cached("word:{name}")
def get_word(name: str) -> str | Loaded[str | None] | None:
    return name or Loaded(None, cache=False)


@cache.cached("token:{name}")
async def fetch_token(name: str) -> Loaded[str]:
    return Loaded(name, ttl=5)


@cache.cached
async def fetch_word(name: str) -> str | Loaded[str]:
    return Loaded(name, cache=False) if name else "none"


def functions() -> None:
    assert_type(get_item(42), Item)
    assert_type(get_item(item_id=42, language="fr"), Item)
    assert_type(get_item.key(42, language="fr"), str)
    assert_type(get_item.refresh(42), Item)
    assert_type(get_item.__wrapped__(42), Item)
    get_item.invalidate(42, language="fr")
    assert_type(get_page("me"), list[str])
    assert_type(get_token("a"), str)
    assert_type(get_token.refresh("a"), str)
    assert_type(get_word("a"), str | None)
    assert [item.name for item in map(get_item, (1, 2))] == ["en", "en"]


async def coroutine_functions() -> None:
    assert_type(await fetch_item(1), Item | None)
    fetch_item(1).close()
    again: Coroutine[Any, Any, Item | None] = fetch_item(1)
    await again
    assert_type(fetch_item.key(1), str)
    assert_type(await fetch_item.refresh(1), Item | None)
    await fetch_item.invalidate(1)
    assert_type(await asyncio.create_task(fetch_item(1)), Item | None)
    assert_type(await asyncio.wait_for(text("a", size=2), 1), str)
    item, page = await asyncio.gather(fetch_item(1), text("a", 3))
    assert_type(item, Item | None)
    assert_type(page, str)
    assert_type(await fetch_token("a"), str)
    assert_type(await fetch_word("a"), str)
    await asyncio.create_task(fetch_word(""))


# Methods.


class Repository:
    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    @cache.cached
    def get(self, item_id: int) -> Item:
        return Item(item_id, self.name)

    @cache.cached("repository:{self.name}:{item_id}", stale_while_revalidate=5)
    async def fetch(self, item_id: int, *, deep: bool = False) -> Item:
        return Item(item_id, self.name)

    @classmethod
    @cache.cached
    def count(cls, kind: str) -> int:
        return len(kind)

    @classmethod
    @cache.cached
    async def acount(cls, kind: str) -> int:
        return len(kind)

    @staticmethod
    @cache.cached
    def parse(text: str) -> int:
        return int(text)

    @property
    @cache.cached("size")
    def size(self) -> int:
        return 3


class Special(Repository):
    def get_special(self, item_id: int) -> Item:
        return assert_type(super().get(item_id), Item)


def methods(repo: Repository) -> None:
    assert_type(repo.get(42), Item)
    assert_type(repo.get(item_id=42), Item)
    assert_type(repo.get.key(42), str)
    assert_type(repo.get.refresh(42), Item)
    assert_type(repo.get.__wrapped__(42), Item)
    repo.get.invalidate(42)
    assert_type(Repository.get(repo, 42), Item)
    assert_type(Special("s").get_special(1), Item)
    assert_type(Special("s").get(1), Item)
    assert_type(Repository.count("kind"), int)
    assert_type(Special.count.refresh("kind"), int)
    assert_type(repo.count("kind"), int)
    Repository.count.invalidate("kind")
    assert_type(Repository.parse("7"), int)
    assert_type(repo.parse("7"), int)
    Repository.parse.invalidate("7")
    assert_type(repo.size, int)


async def coroutine_methods(repo: Repository) -> None:
    assert_type(await repo.fetch(42, deep=True), Item)
    assert_type(await asyncio.create_task(repo.fetch(42)), Item)
    assert_type(await repo.fetch.refresh(42), Item)
    await repo.fetch.invalidate(42)
    assert_type(await Repository.fetch(repo, 42), Item)
    assert_type(await Repository.acount("kind"), int)
    assert_type(await repo.acount("kind"), int)
    await Repository.acount.invalidate("kind")


# The cache's own methods.


def load() -> Item:
    return Item(1, "loaded")


async def aload() -> Item:
    return Item(1, "loaded")


def load_token() -> Loaded[str]:
    return Loaded("loaded", ttl=5)


def load_word() -> str | Loaded[str]:
    return Loaded("loaded", cache=False)


def sync_calls() -> None:
    assert_type(cache.get_or_load("k", load), Item)
    assert_type(cache.get_or_load("number", lambda: 1, ttl=60, copy=True, jitter=0), int)
    assert_type(cache.get_or_load("partial", partial(len, "abc")), int)
    assert_type(cache.get_or_load("token", load_token), str)
    assert_type(cache.get_or_load("word", load_word), str)
    assert_type(cache.refresh("k", load), Item)
    assert_type(cache.refresh("token", load_token), str)
    assert_type(cache.refresh("word", load_word), str)
    found = cache.lookup("k", load)
    assert_type(found, Result[Item])
    assert_type((found.value, found.age, found.stale), tuple[Item, float | None, bool])
    assert_type(cache.lookup("token", load_token).value, str)
    maybe = cache.get("k")
    assert maybe is not None
    assert cache.get("absent", 7) == 7
    cache.set("k", 1, ttl=60)
    cache.set_many({"a": 1, "b": "two"})
    assert_type(cache.get_many(["a", "b"]), dict[str, Any])
    cache.invalidate("a", "b", keep_stale=True)
    cache.ping()
    assert_type(cache.stats(), dict[str, int])
    cache.clear_local()
    assert_type(cache.register(Item), type[Item])


async def async_calls() -> None:
    assert_type(await cache.aget_or_load("k", aload), Item)
    assert_type(await cache.aget_or_load("k", load), Item)
    assert_type(await cache.aget_or_load("token", load_token), str)
    assert_type(await cache.aget_or_load("word", load_word), str)
    assert_type(await cache.aget_or_load("token", partial(fetch_token.__wrapped__, "a")), str)
    assert_type(await cache.aget_or_load("word", partial(fetch_word.__wrapped__, "a")), str)
    assert_type(await cache.aget_or_load("partial", partial(fetch_text, "a", 3)), str)
    assert_type(await asyncio.create_task(cache.aget_or_load("k", aload)), Item)
    assert_type(await cache.arefresh("k", aload), Item)
    assert_type(await cache.arefresh("token", load_token), str)
    assert_type((await cache.alookup("k", aload)).value, Item)
    assert_type(await cache.arefresh("token", partial(fetch_token.__wrapped__, "a")), str)
    await cache.aget("k", None)
    await cache.aset("k", 1, ttl=60)
    await cache.aset_many({"a": 1})
    assert_type(await cache.aget_many(["a"]), dict[str, Any])
    await cache.ainvalidate("a", "b")
    await cache.aping()


def contexts() -> None:
    with Cache(policy=Policy(ttl=5)) as one:
        assert_type(one, Cache)

    async def main() -> None:
        async with Cache() as two:
            assert_type(two, Cache)

    asyncio.run(main())


def errors() -> None:
    try:
        get_item(1)
    except LoadFailed as error:
        print(error.key, error.type_name, error.message, error.retry_after + 1)
    except (LoadTimeout, RemoteUnavailable, ReentrantLoadError, CodecError, CacheClosed):
        raise
    except TierCacheError:
        raise
    try:
        Policy(ttl=0)
    except PolicyError as error:
        assert_type(error, PolicyError)
        value_error: ValueError = error
        assert "ttl" in str(value_error)


def main() -> None:
    functions()
    asyncio.run(coroutine_functions())
    methods(Repository("r"))
    asyncio.run(coroutine_methods(Repository("r")))
    sync_calls()
    asyncio.run(async_calls())
    contexts()
    errors()
    cache.close()


if __name__ == "__main__":
    main()
