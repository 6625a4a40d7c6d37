from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from tiercache.local.lru import Entry

W = TypeVar("W", bound=Callable[[], object])

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
    def __init__(self, key: str, mode: int = 0, early: bool = False, seen: Entry | None = None) -> None: ...
    def follow(self, who: Hashable, waker: W) -> W | None: ...
    def leave(self) -> None: ...
