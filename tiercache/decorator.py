"""cached(): a loader function becomes a cached one, of the same colour.

This file is longer than others because a function and a bound method of each colour have types of their own.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Coroutine
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, overload

from tiercache.delegation import Called
from tiercache.keys import KeyMaker
from tiercache.local.alias import Aliases
from tiercache.local.face import Call, by_vectorcall
from tiercache.port import is_async

if TYPE_CHECKING:
    from tiercache.cache import Cache
    from tiercache.loaded import Loaded

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Awaits = Coroutine[object, None, T]  # with Any in it, mypy finds no type for asyncio.gather
ALIASES = 10_000  # argument lists per function that lead to their key without formatting it
_CONSTANT = (type(None), bool, int, float, str, bytes)


class _Method(Protocol[C_contra, Q, R_co]):
    # For `__get__`: a function whose first parameter is C. What stands below @staticmethod is never bound.
    def __call__(self, first: C_contra, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...


@by_vectorcall
class CachedFunction(Call, Generic[P, T]):
    """A cached sync function. Called, it answers from the cache or runs the function, once in the fleet."""

    def __init__(
        self,
        cache: "Cache",
        function: Callable[P, Any],
        maker: KeyMaker,
        policy: dict[str, Any],
        aliases: Aliases | None,
    ) -> None:
        super().__init__(cache, is_async(function), aliases)
        functools.update_wrapper(self, function, updated=())
        attributes = getattr(function, "__dict__", {}).items()
        vars(self).update({name: value for name, value in attributes if not hasattr(type(self), name)})
        self.__wrapped__ = function
        self._cache, self._maker, self._policy = cache, maker, policy

    if TYPE_CHECKING:
        __wrapped__: Callable[P, T]
        __qualname__: str

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The cache key of these arguments; TypeError where they have none."""
        return self._maker(args, kwargs)

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments, as `Cache.invalidate`."""
        self._cache.invalidate(self._maker(args, kwargs))

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Load the value for these arguments now, as `Cache.refresh`."""
        loader = self._loader(args, kwargs)
        return self._cache.refresh(self._maker(args, kwargs), loader, **self._policy)  # type: ignore[no-any-return]

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # What the compiled call could not answer.
        key = self._maker(args, kwargs)
        value = self._hit(args, kwargs, self._cache._wire(key))
        if value is not NotImplemented:
            return value
        return self._load(key, self._loader(args, kwargs))

    def _loader(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        loader = Called(self.__wrapped__, *args, **kwargs)
        loader.name, loader.label = self._maker.name, self._maker.label
        return loader

    def _load(self, key: str, loader: Callable[[], Any]) -> Any:
        return self._cache.get_or_load(key, loader, **self._policy)

    @overload
    def __get__(self: "_Method[type[Any], Q, T]", instance: object, owner: type) -> "BoundFunction[Q, T]": ...
    @overload
    def __get__(self, instance: None, owner: type) -> "CachedFunction[P, T]": ...
    @overload
    def __get__(self: "_Method[C, Q, T]", instance: C, owner: type) -> "BoundFunction[Q, T]": ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> "CachedFunction[P, T]": ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundFunction(self, instance)

    def __set_name__(self, owner: type, name: str) -> None:
        if self._maker.needs_cache_key(owner):
            first = next(iter(self._maker.signature.parameters))
            raise TypeError(
                f"{owner.__qualname__}.{name}: instances have no stable key. Give {owner.__qualname__} a "
                f"__cache_key__() method, or use a template, key=, or ignore=({first!r},)"
            )

    def __repr__(self) -> str:
        return f"<cached {self._maker.name}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, like a function


@by_vectorcall
class CachedCoroutineFunction(CachedFunction[P, T]):
    """A cached async function."""

    def __init__(
        self,
        cache: "Cache",
        function: Callable[P, Any],
        maker: KeyMaker,
        policy: dict[str, Any],
        aliases: Aliases | None,
    ) -> None:
        super().__init__(cache, function, maker, policy, aliases)
        # By these inspect knows a coroutine function; what a partial or a callable object hides has none.
        shown = function if hasattr(function, "__code__") else _coroutine_function
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            setattr(self, name, getattr(shown, name))
        vars(self).setdefault("__name__", type(function).__name__)

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]
            self, /, *args: P.args, **kwargs: P.kwargs
        ) -> Awaits[T]: ...

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:  # type: ignore[override]
        """Forget the value for these arguments, as `Cache.ainvalidate`."""
        await self._cache.ainvalidate(self._maker(args, kwargs))

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:  # type: ignore[override]
        """Load the value for these arguments now, as `Cache.arefresh`."""
        loader = self._loader(args, kwargs)
        return await self._cache.arefresh(self._maker(args, kwargs), loader, **self._policy)

    def _load(self, key: str, loader: Callable[[], Any]) -> Any:
        return self._cache.aget_or_load(key, loader, **self._policy)

    @overload
    def __get__(
        self: "_Method[type[Any], Q, Awaits[T]]", instance: object, owner: type
    ) -> "BoundCoroutineFunction[Q, T]": ...
    @overload
    def __get__(self, instance: None, owner: type) -> "CachedCoroutineFunction[P, T]": ...
    @overload
    def __get__(self: "_Method[C, Q, Awaits[T]]", instance: C, owner: type) -> "BoundCoroutineFunction[Q, T]": ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> "CachedCoroutineFunction[P, T]": ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundCoroutineFunction(self, instance)


async def _coroutine_function() -> None: ...


class BoundFunction(Generic[P, T]):
    """A cached method of one instance (or class): its first argument is filled in."""

    def __init__(self, function: Any, instance: Any) -> None:
        self.__func__ = function
        self.__self__ = instance
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        # The class may come to have some of its own, when somebody asks it for them.
        self.__annotations__ = getattr(function, "__annotations__", {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)  # whatever else a function has, as bound methods do

    @property
    def __wrapped__(self) -> Callable[P, T]:
        wrapped = self.__func__.__wrapped__
        binds = hasattr(wrapped, "__get__")
        return wrapped.__get__(self.__self__) if binds else MethodType(wrapped, self.__self__)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.__func__(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The cache key of these arguments; TypeError where they have none."""
        return self.__func__.key(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments, as `Cache.invalidate`."""
        self.__func__.invalidate(self.__self__, *args, **kwargs)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Load the value for these arguments now, as `Cache.refresh`."""
        return self.__func__.refresh(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundFunction):
            return NotImplemented
        return self.__func__ is other.__func__ and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((self.__func__, id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"

    def __reduce__(self) -> Any:
        return getattr, (self.__self__, self.__func__.__name__)


class BoundCoroutineFunction(BoundFunction[P, T]):
    """A cached async method of one instance (or class)."""

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]
            self, /, *args: P.args, **kwargs: P.kwargs
        ) -> Awaits[T]: ...

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:  # type: ignore[override]
        """Forget the value for these arguments, as `Cache.ainvalidate`."""
        await self.__func__.invalidate(self.__self__, *args, **kwargs)

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:  # type: ignore[override]
        """Load the value for these arguments now, as `Cache.arefresh`."""
        return await self.__func__.refresh(self.__self__, *args, **kwargs)  # type: ignore[no-any-return]


class _CachedClassMethod(classmethod):  # type: ignore[type-arg]
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self.__func__.__get__(owner or type(instance))


class _ClassMethods:
    """Put into a class body: makes the class's classmethods bind cached functions in our own way.

    From Python 3.13 on a classmethod no longer asks what it wraps to bind itself, and its plain bound method
    would let `Repo.get.invalidate(42)` take 42 for the class.
    """

    def __init__(self, body: Any) -> None:
        self._body = body

    def __set_name__(self, owner: type, name: str) -> None:
        delattr(owner, name)
        for each, value in list(self._body.items()):
            if type(value) is classmethod and isinstance(value.__func__, CachedFunction):
                self._body[each] = ours = _CachedClassMethod(value.__func__)  # NamedTuple goes on reading it
                setattr(owner, each, ours)

    @classmethod
    def attend(cls, function: Any) -> None:
        """Be there when the class in whose body `function` stands is made."""
        body, _, _ = getattr(function, "__qualname__", "").rpartition(".")
        frame = sys._getframe() if body and not body.endswith("<locals>") else None
        while frame is not None and frame.f_locals.get("__qualname__") != body:
            frame = frame.f_back
        if frame is not None:
            frame.f_locals["__tiercache_classmethods__"] = cls(frame.f_locals)


class Decorators:
    """The `cached` method of a cache."""

    __slots__ = ()

    @overload
    def cached(self, function: Callable[P, Coroutine[Any, Any, "Loaded[T]"]], /) -> CachedCoroutineFunction[P, T]: ...
    @overload
    def cached(
        self, function: Callable[P, Coroutine[Any, Any, "T | Loaded[T]"]], /
    ) -> CachedCoroutineFunction[P, T]: ...
    @overload
    def cached(self, function: Callable[P, "Loaded[T]"], /) -> CachedFunction[P, T]: ...
    @overload
    def cached(self, function: Callable[P, "T | Loaded[T]"], /) -> CachedFunction[P, T]: ...
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
        bare = template is not None and not isinstance(template, str)
        decorator = Decorator(self, None if bare else template, key, ignore, version, policy)
        return decorator(template) if bare else decorator


class Decorator:
    """What `cache.cached(...)` returns: decorates one function."""

    def __init__(
        self,
        cache: Any,
        template: str | None,
        key: Callable[..., str] | None,
        ignore: Collection[str],
        version: str,
        policy: dict[str, Any],
    ) -> None:
        if key is not None and (not callable(key) or is_async(key)):
            raise TypeError(f"key must be a callable that returns the key, not {key!r}")
        self._cache = cache
        self._template, self._key, self._ignore, self._version = template, key, ignore, version
        self._policy = policy
        self._copies = cache._derive(None, policy).copy

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, "Loaded[T]"]]) -> CachedCoroutineFunction[P, T]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, "T | Loaded[T]"]]
    ) -> CachedCoroutineFunction[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, "Loaded[T]"]) -> CachedFunction[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, "T | Loaded[T]"]) -> CachedFunction[P, T]: ...
    def __call__(self, function: Any) -> Any:
        _check_function(function)
        maker = KeyMaker(function, self._template, key=self._key, ignore=self._ignore, version=self._version)
        if self._template is not None:
            self._claim(self._template, function, maker.name)
        if sys.version_info >= (3, 13):
            _ClassMethods.attend(function)
        kind = CachedCoroutineFunction if is_async(function) else CachedFunction
        cached: CachedFunction[..., Any] = kind(self._cache, function, maker, self._policy, self._aliases(maker))
        self._cache._functions[maker.label] = cached  # the last one of this name, while it lives
        return cached

    def _claim(self, template: str, function: Any, name: str) -> None:
        # The same function defined again (a reload, a factory) may claim its own template again.
        if name.endswith("<lambda>"):
            name += f", line {function.__code__.co_firstlineno}"
        owner = self._cache._templates.setdefault((template, self._version), name)
        if owner != name:
            raise ValueError(f"template {template!r} of {name} belongs to {owner} already")

    def _aliases(self, maker: KeyMaker) -> Aliases | None:
        # Can a call's plain arguments be led to their key by memory? Not where anything else has a say in the
        # key: a callable, a default that may change; nor where a hit must be copied.
        silent = {name for name in maker.signature.parameters if not self._has_say(name)}
        parameters = maker.signature.parameters.values()
        settled = (each.default is each.empty or type(each.default) in _CONSTANT for each in parameters)
        if (
            self._key
            or self._copies
            or not all(ends or each.name in silent for ends, each in zip(settled, parameters, strict=True))
        ):
            return None
        return Aliases(ALIASES, [at for at, each in enumerate(parameters) if each.kind <= 1 and each.name in silent])

    def _has_say(self, parameter: str) -> bool:
        return parameter not in self._ignore and (self._template is None or f"{{{parameter}" in self._template)


def _check_function(function: Any) -> None:
    kind = type(function)
    if isinstance(function, (classmethod, staticmethod, property)):
        raise TypeError(f"put @cached below @{kind.__name__}, directly on the function")
    if not callable(function):
        raise TypeError(f"cached takes a template (a str) or decorates a function; this is {kind.__name__}")
    for part in (function, getattr(kind, "__call__", None)):  # noqa: B004  # the method itself is wanted
        if inspect.isgeneratorfunction(part) or inspect.isasyncgenfunction(part):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"{name} is a generator function: its result can be read only once")
