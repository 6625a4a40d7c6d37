"""One contract, both colours: a cache whose calls a test writes once, in the sync form."""

import asyncio
from typing import Any

from tiercache import Cache


class Sync:
    """The sync face, as it is."""

    name = "sync"

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def loader(self, function: Any) -> Any:
        return function

    def close(self) -> None:
        self.cache.close()


class Async:
    """The async face on a loop of its own; each call runs to its end."""

    name = "async"

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Cache, "a" + name):
            return getattr(self.cache, name)
        method = getattr(self.cache, "a" + name)

        def call(*args: Any, **kwargs: Any) -> Any:
            async def main() -> Any:
                return await method(*args, **kwargs)

            return self.runner.run(main())

        return call

    def loader(self, function: Any) -> Any:
        async def load() -> Any:
            return function()

        return load

    def close(self) -> None:
        self.runner.run(self.cache.aclose())
        self.runner.close()


FACES = [Sync, Async]
