from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

from tiercache.loaded import Loaded
from tiercache.local.alias import Aliases
from tiercache.local.table import Table

C = TypeVar("C", bound="type[Call]")
T = TypeVar("T")
D = TypeVar("D")

def monotonic() -> float: ...

class Face:
    table: Table
    _detour: bool
    def __init__(self, table: Table, clock: Callable[[], float] | None = None, detour: bool = False) -> None: ...
    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: str, default: D) -> Any | D: ...
    @overload
    def get_or_load(
        self, key: str, loader: Callable[[], Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> T: ...
    @overload
    def get_or_load(
        self, key: str, loader: Callable[[], T | Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> T: ...
    def aget(self, key: str, default: Any = None) -> Awaitable[Any]: ...
    @overload
    def aget_or_load(
        self, key: str, loader: Callable[[], Awaitable[Loaded[T]]], *, ttl: float | None = None, **policy: Any
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def aget_or_load(
        self, key: str, loader: Callable[[], Awaitable[T | Loaded[T]]], *, ttl: float | None = None, **policy: Any
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def aget_or_load(
        self, key: str, loader: Callable[[], Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def aget_or_load(
        self, key: str, loader: Callable[[], T | Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> Coroutine[Any, Any, T]: ...

class Call:
    def __init__(self, face: Face, awaited: bool, aliases: Aliases | None = None) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def _hit(self, args: tuple[Any, ...], kwargs: dict[str, Any], key: str) -> Any: ...

def by_vectorcall(cls: C) -> C: ...
