"""Deliberate errors: mypy and pyright must each report every marked line, and no other (see test_typing)."""

from tiercache import Cache, Policy

cache = Cache()


@cache.cached("item:{item_id}")
def get_item(item_id: int) -> str:
    return str(item_id)


@cache.cached
async def fetch_item(item_id: int) -> str:
    return str(item_id)


class Repository:
    def __cache_key__(self) -> int:
        return 1

    @cache.cached
    def get(self, item_id: int) -> str:
        return str(item_id)

    @classmethod
    @cache.cached
    def count(cls, kind: str) -> int:
        return len(kind)

    @staticmethod
    @cache.cached
    def parse(text: str) -> int:
        return int(text)


repo = Repository()

get_item("42")  # error
get_item()  # error
get_item(1, 2)  # error
get_item(id=1)  # error
get_item.key("42")  # error
get_item.invalidate()  # error
get_item.refresh(1, deep=True)  # error
number: int = get_item(1)  # error
get_item.forget(1)  # error

repo.get("42")  # error
repo.get(repo, 42)  # error
repo.get.invalidate(repo, 42)  # error
repo.get.key()  # error
Repository.get(42)  # error
Repository.count(42)  # error
Repository.count.invalidate()  # error
repo.count("kind", 1)  # error
repo.parse(42)  # error
Repository.parse.key()  # error


async def main() -> None:
    await get_item(1)  # error
    await get_item.invalidate(1)  # error
    fetched: str = fetch_item(1)  # error
    await fetch_item("1")  # error
    await fetch_item.refresh()  # error
    text: int = await fetch_item(1)  # error
    print(fetched, text)
    loaded: int = await cache.aget_or_load("k", lambda: "text")  # error
    print(loaded)


wrong: int = cache.get_or_load("k", lambda: "text")  # error
cache.get_or_load("k", 42)  # error
cache.get_or_load(42, lambda: 1)  # error
cache.get_many(7)  # error
cache.invalidate()  # error
cache.cached(42)  # error
cache.cached("x", key="k")  # error
Policy(ttl="60")  # error
Policy(60)  # error
Policy(tll=60)  # error
Policy(refresh="never")  # error
Cache(max_entries="many")  # error
Cache(namespce="shop")  # error
Policy().ttl = 5  # error
