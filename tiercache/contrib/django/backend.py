"""`TierCache`: Django's cache API on a cache of ours.

A key in our namespace is `generation:` and Django's own key. `clear` replaces the generation, which every process
keeps in its tier 1 and hears of like any other invalidation; what had the old one is out of reach and expires.
This file is longer than others because every method stands in two colours.
"""

import inspect
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, TypeAlias

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from tiercache.blocking import run
from tiercache.contrib.django.loaders import async_loader, loader
from tiercache.contrib.django.shared import shared
from tiercache.contrib.django.steps import (
    LONGEST,
    adding,
    adding_to,
    begin_generation,
    deleting,
    new_generation,
    touching,
)
from tiercache.contrib.pickling import freeze, thaw
from tiercache.contrib.swap import Decide, swap
from tiercache.errors import RemoteUnavailable
from tiercache.port import is_async

FOREVER = 365 * 86_400.0  # seconds for timeout=None: here every entry expires
GENERATION = "generation"
_MISSING = object()
_UNREACHED = new_generation()  # the generation of what is loaded before Redis could be asked for it

Key: TypeAlias = Any
Timeout: TypeAlias = Any


class TierCache(BaseCache):  # type: ignore[misc]
    """Django's cache API on a `tiercache.Cache` whose records are signed pickles.

    `location`: one Redis URL. `params`: the other settings of the alias; OPTIONS holds MAX_ENTRIES (of this process's
    tier 1, default 10,000), IGNORE_EXCEPTIONS, and settings of `Cache` and `Policy` by name. Raises
    ImproperlyConfigured. Where Redis can't be written, methods that write raise RemoteUnavailable, unless
    IGNORE_EXCEPTIONS is set.
    """

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = dict(params.get("OPTIONS", {}))
        options.setdefault("MAX_ENTRIES", params.get("max_entries", 10_000))
        self._tolerant = bool(options.pop("IGNORE_EXCEPTIONS", False))
        self._cache = shared(location, options)

    # Keys, generations and timeouts.

    def get_backend_timeout(self, timeout: Timeout = DEFAULT_TIMEOUT) -> float:
        """Seconds for which to keep a value: 0 is not at all, None is a year."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return FOREVER
        return 0.0 if timeout < 0.001 else min(float(timeout), FOREVER)

    def _generation(self) -> str:
        return self._cache.get(GENERATION) or self._swap(GENERATION, begin_generation)  # type: ignore[no-any-return]

    async def _ageneration(self) -> str:
        known = await self._cache.aget(GENERATION)
        return known or await self._aswap(GENERATION, begin_generation)  # type: ignore[no-any-return]

    def _readable(self) -> str:
        try:
            return self._generation()
        except RemoteUnavailable:
            return _UNREACHED

    async def _areadable(self) -> str:
        try:
            return await self._ageneration()
        except RemoteUnavailable:
            return _UNREACHED

    def _made(self, keys: Iterable[Key], version: int | None) -> dict[Key, str]:
        return {key: self.make_and_validate_key(key, version=version) for key in keys}

    def _swap(self, name: str, decide: Decide) -> Any:
        return run(swap(self._cache._blocking(), self._cache._wire(name), decide))

    async def _aswap(self, name: str, decide: Decide) -> Any:
        return await swap(self._cache._aio(), self._cache._wire(name), decide)

    def _outage(self) -> Any:
        return suppress(RemoteUnavailable) if self._tolerant else nullcontext()

    # Reading.

    def get(self, key: Key, default: Any = None, version: int | None = None) -> Any:
        made = self.make_and_validate_key(key, version=version)
        value = self._cache.get(f"{self._readable()}:{made}", _MISSING)
        return default if value is _MISSING else thaw(value)

    async def aget(self, key: Key, default: Any = None, version: int | None = None) -> Any:
        made = self.make_and_validate_key(key, version=version)
        value = await self._cache.aget(f"{await self._areadable()}:{made}", _MISSING)
        return default if value is _MISSING else thaw(value)

    def get_many(self, keys: Iterable[Key], version: int | None = None) -> dict[Key, Any]:
        names = _named(self._made(keys, version), self._readable())
        found = self._cache.get_many(names.values())
        return {key: thaw(found[name]) for key, name in names.items() if name in found}

    async def aget_many(self, keys: Iterable[Key], version: int | None = None) -> dict[Key, Any]:
        names = _named(self._made(keys, version), await self._areadable())
        found = await self._cache.aget_many(names.values())
        return {key: thaw(found[name]) for key, name in names.items() if name in found}

    def get_or_set(self, key: Key, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """The value of `key`, else what `default`, or `default()`, gives: one call in the whole fleet."""
        if is_async(default):
            raise TypeError("default is a coroutine function: use aget_or_set")
        made, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        name, load = f"{self._readable()}:{made}", loader(default)
        if ttl:
            return thaw(self._cache.get_or_load(name, load, ttl=ttl, negative_ttl=ttl))
        value = self._cache.get(name, _MISSING)
        return thaw(load() if value is _MISSING else value)

    async def aget_or_set(
        self, key: Key, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Awaitable `get_or_set`; `default` may be a coroutine function, any other callable runs in a thread."""
        made, ttl = self.make_and_validate_key(key, version=version), self.get_backend_timeout(timeout)
        name, load = (
            f"{await self._areadable()}:{made}",
            async_loader(default) if is_async(default) else loader(default),
        )
        if ttl:
            return thaw(await self._cache.aget_or_load(name, load, ttl=ttl, negative_ttl=ttl))
        value = await self._cache.aget(name, _MISSING)
        if value is not _MISSING:
            return thaw(value)
        loaded = load()
        return thaw(await loaded if inspect.isawaitable(loaded) else loaded)

    # Writing.

    def set(self, key: Key, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self.set_many({key: value}, timeout, version)

    async def aset(self, key: Key, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        await self.aset_many({key: value}, timeout, version)

    def set_many(
        self, data: Mapping[Key, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Key]:
        values, ttl = self._frozen(data, version), self.get_backend_timeout(timeout)
        if not ttl:
            self.delete_many(data, version)
        elif values:
            with self._outage():
                self._cache.set_many(_under(self._generation(), values), ttl=ttl)
        return []

    async def aset_many(
        self, data: Mapping[Key, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Key]:
        values, ttl = self._frozen(data, version), self.get_backend_timeout(timeout)
        if not ttl:
            await self.adelete_many(data, version)
        elif values:
            with self._outage():
                await self._cache.aset_many(_under(await self._ageneration(), values), ttl=ttl)
        return []

    def _frozen(self, data: Mapping[Key, Any], version: int | None) -> dict[str, Any]:
        return {made: freeze(data[key]) for key, made in self._made(data, version).items()}

    def delete_many(self, keys: Iterable[Key], version: int | None = None) -> None:
        made = self._made(keys, version)
        if made:
            with self._outage():
                self._cache.invalidate(*_named(made, self._generation()).values())

    async def adelete_many(self, keys: Iterable[Key], version: int | None = None) -> None:
        made = self._made(keys, version)
        if made:
            with self._outage():
                await self._cache.ainvalidate(*_named(made, await self._ageneration()).values())

    def clear(self) -> None:
        """Put every value of this namespace out of reach, in every process; Redis keeps it until it expires."""
        with self._outage():
            self._cache.set(GENERATION, new_generation(), ttl=LONGEST)

    async def aclear(self) -> None:
        """Awaitable `clear`."""
        with self._outage():
            await self._cache.aset(GENERATION, new_generation(), ttl=LONGEST)

    # Atomic steps.

    def add(self, key: Key, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self._step(key, version, adding(freeze(value), self.get_backend_timeout(timeout))))

    async def aadd(self, key: Key, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(await self._astep(key, version, adding(freeze(value), self.get_backend_timeout(timeout))))

    def touch(self, key: Key, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self._step(key, version, touching(self.get_backend_timeout(timeout))))

    async def atouch(self, key: Key, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(await self._astep(key, version, touching(self.get_backend_timeout(timeout))))

    def delete(self, key: Key, version: int | None = None) -> bool:
        return bool(self._step(key, version, deleting))

    async def adelete(self, key: Key, version: int | None = None) -> bool:
        return bool(await self._astep(key, version, deleting))

    def incr(self, key: Key, delta: Any = 1, version: int | None = None) -> Any:
        return _counted(key, self._step(key, version, adding_to(delta), None))

    async def aincr(self, key: Key, delta: Any = 1, version: int | None = None) -> Any:
        return _counted(key, await self._astep(key, version, adding_to(delta), None))

    def _step(self, key: Key, version: int | None, decide: Decide, otherwise: bool | None = False) -> Any:
        made = self.make_and_validate_key(key, version=version)
        with self._outage():
            return self._swap(f"{self._generation()}:{made}", decide)
        return otherwise

    async def _astep(self, key: Key, version: int | None, decide: Decide, otherwise: bool | None = False) -> Any:
        made = self.make_and_validate_key(key, version=version)
        with self._outage():
            return await self._aswap(f"{await self._ageneration()}:{made}", decide)
        return otherwise


def _counted(key: Key, counted: Any) -> Any:
    if counted is None:
        raise ValueError(f"Key {key!r} not found")
    return counted


def _named(made: dict[Key, str], generation: str) -> dict[Key, str]:
    return {key: f"{generation}:{name}" for key, name in made.items()}


def _under(generation: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{generation}:{name}": value for name, value in values.items()}
