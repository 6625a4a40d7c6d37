"""cached(): a loader function becomes a cached one, of the same colour."""

import functools
import inspect
import sys
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from tiercache.keys import KeyMaker
from tiercache.local.face import Call
from tiercache.local.table import Mode

if TYPE_CHECKING:
    from tiercache.cache import Cache

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
R = TypeVar("R")

FORCE = int(Mode.FORCE)
ALIASES = 10_000  # argument lists per function that lead to their key without formatting it
_templates: "weakref.WeakKeyDictionary[Cache, dict[str, str]]" = weakref.WeakKeyDictionary()


class CachedFunction(Call, Generic[P, T]):
    """A cached sync function. Called, it answers from the cache or runs the function, once in the fleet."""

    __wrapped__: Callable[P, T]

    def __init__(self, cache: "Cache", function: Callable[P, T], maker: KeyMaker, policy: Any) -> None:
        super().__init__(cache, inspect.iscoroutinefunction(function), ALIASES)
        functools.update_wrapper(self, function)
        for name in ("__code__", "__defaults__", "__kwdefaults__"):  # what inspect knows a function by
            setattr(self, name, getattr(function, name, None))
        self._cache, self._maker, self._policy = cache, maker, policy

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The cache key of these arguments; TypeError where they have none."""
        return self._maker(args, kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments, as `Cache.invalidate`."""
        self._cache.invalidate(self.key(*args, **kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Load the value for these arguments now, as `Cache.refresh`."""
        loader = partial(self.__wrapped__, *args, **kwargs)
        return self._cache._load(self.key(*args, **kwargs), loader, self._policy, FORCE)  # type: ignore[no-any-return]

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # What the compiled call could not answer.
        key = self._maker(args, kwargs)
        self._remember(args, kwargs, key)
        return self._cache._load(key, partial(self.__wrapped__, *args, **kwargs), self._policy)

    @overload
    def __get__(self, instance: None, owner: type) -> "CachedFunction[P, T]": ...
    @overload
    def __get__(
        self: "CachedFunction[Concatenate[Any, Q], T]", instance: object, owner: type | None = None
    ) -> "BoundFunction[Q, T]": ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundFunction(self, instance)

    def __set_name__(self, owner: type, name: str) -> None:
        if self._maker.needs_cache_key(owner):
            raise TypeError(
                f"{owner.__qualname__}.{name}: instances have no stable key. Give {owner.__qualname__} a "
                "__cache_key__() method, or use a template, key=, or ignore=('self',)"
            )

    def __repr__(self) -> str:
        return f"<cached {self._maker.name}>"

    def __reduce__(self) -> Any:
        return _by_name, (self.__wrapped__.__module__, self.__wrapped__.__qualname__)


class CachedCoroutineFunction(CachedFunction[P, T]):
    """A cached async function."""

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, T]: ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:  # type: ignore[override]
        """Forget the value for these arguments, as `Cache.ainvalidate`."""
        await self._cache.ainvalidate(self.key(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:  # type: ignore[override]
        """Load the value for these arguments now, as `Cache.arefresh`."""
        loader = partial(self.__wrapped__, *args, **kwargs)
        return await self._cache._aload(  # type: ignore[no-any-return]
            self.key(*args, **kwargs), loader, self._policy, FORCE
        )

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = self._maker(args, kwargs)
        self._remember(args, kwargs, key)
        return self._cache._aload(key, partial(self.__wrapped__, *args, **kwargs), self._policy)

    @overload
    def __get__(self, instance: None, owner: type) -> "CachedCoroutineFunction[P, T]": ...
    @overload
    def __get__(
        self: "CachedCoroutineFunction[Concatenate[Any, Q], T]", instance: object, owner: type | None = None
    ) -> "BoundCoroutineFunction[Q, T]": ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundCoroutineFunction(self, instance)


class BoundFunction(Generic[P, T]):
    """A cached method of one instance (or class): its first argument is filled in."""

    def __init__(self, function: Any, instance: object) -> None:
        self._function = function
        self.__self__ = instance
        self.__wrapped__: Callable[P, T] = partial(function.__wrapped__, instance)
        self.__name__: str = function.__name__
        self.__qualname__: str = function.__qualname__
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._function(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The cache key of these arguments."""
        return self._function.key(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments."""
        return self._function.invalidate(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Load the value for these arguments now."""
        return self._function.refresh(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<bound {self._function!r} of {self.__self__!r}>"


class BoundCoroutineFunction(BoundFunction[P, T]):
    """A cached async method of one instance (or class)."""

    __code__: Any

    def __init__(self, function: Any, instance: object) -> None:
        super().__init__(function, instance)
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            setattr(self, name, getattr(function, name, None))
        _mark(self)

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, T]: ...

        def invalidate(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Awaitable[None]: ...

        def refresh(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, T]: ...


def _mark(function: Any) -> None:
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)


class Decorators:
    """The `cached` method of a cache."""

    @overload
    def cached(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> CachedCoroutineFunction[P, T]: ...
    @overload
    def cached(self, function: Callable[P, T], /) -> CachedFunction[P, T]: ...
    @overload
    def cached(
        self,
        template: str | None = None,
        /,
        *,
        key: Callable[..., str] | None = None,
        ignore: Collection[str] = (),
        version: str = "",
        **policy: Any,
    ) -> "Decorator": ...
    def cached(
        self,
        template: Any = None,
        /,
        *,
        key: Callable[..., str] | None = None,
        ignore: Collection[str] = (),
        version: str = "",
        **policy: Any,
    ) -> Any:
        """Decorate a loader: its calls are answered from the cache, and loaded once in the fleet.

        `template` such as "item:{item_id}" names the key by the function's parameters; `key=` is a callable with
        the same arguments that returns it; without both the key is made of the function's name, `version` and
        the typed arguments, `ignore` left out. Any Policy field can be given. Bare `@cache.cached` works.
        Raises ValueError for a template that does not fit, TypeError for what can't be cached.
        """
        decorator = Decorator(self, None if callable(template) else template, key, ignore, version, policy)
        return decorator(template) if callable(template) else decorator


class Decorator:
    """What `cache.cached(...)` returns: decorates one function."""

    def __init__(
        self,
        cache: Any,
        template: str | None,
        key: Any,
        ignore: Collection[str],
        version: str,
        policy: dict[str, Any],
    ) -> None:
        if template is not None and not isinstance(template, str):
            raise TypeError(f"template must be a str, not {type(template).__name__}")
        self._cache = cache
        self._template, self._key, self._ignore, self._version = template, key, ignore, version
        self._policy = cache._derive(policy.pop("ttl", None), policy)

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> CachedCoroutineFunction[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T]) -> CachedFunction[P, T]: ...
    def __call__(self, function: Any) -> Any:
        if isinstance(function, (classmethod, staticmethod)):
            kind = type(function).__name__
            raise TypeError(f"put @{kind} above @cached, not below: @cached decorates the plain function")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator function: its result can be read only once")
        if not callable(function):
            raise TypeError(f"cached decorates a function, not {type(function).__name__}")
        maker = KeyMaker(function, self._template, key=self._key, ignore=self._ignore, version=self._version)
        if self._template is not None:
            _claim(self._cache, self._template + "%v" + self._version, maker.name)
        if inspect.iscoroutinefunction(function):
            cached = CachedCoroutineFunction[Any, Any](self._cache, function, maker, self._policy)
            _mark(cached)
            return cached
        return CachedFunction[Any, Any](self._cache, function, maker, self._policy)


def _claim(cache: Any, template: str, name: str) -> None:
    # The same function defined again (a reload, a factory) may claim its own template again.
    owner = _templates.setdefault(cache, {}).setdefault(template, name)
    if owner != name:
        raise ValueError(f"template {template.partition('%v')[0]!r} of {name} belongs to {owner} already")


def _by_name(module: str, qualname: str) -> Any:
    found: Any = sys.modules[module] if module in sys.modules else __import__(module, fromlist=["_"])
    for part in qualname.split("."):
        found = getattr(found, part)
    return found
