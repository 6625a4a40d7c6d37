from collections.abc import Callable, Hashable
from typing import Any, Self, TypeVar, final

from tiercache.local.store import Entry

W = TypeVar("W", bound=Callable[[], object])

@final
class Flight:
    key: str
    mode: int
    early: bool
    seen: Entry | None
    cut: bool
    settled: bool
    outcome: Any
    on_loop: bool
    cancel: Callable[[], object] | None
    def __new__(cls, key: str, mode: int = 0, early: bool = False, seen: Entry | None = None) -> Self: ...
    def follow(self, who: Hashable, waker: W) -> W | None: ...
    def leave(self) -> None: ...
