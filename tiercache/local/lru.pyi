from types import TracebackType
from typing import Self, final

from tiercache.local.store import Store

@final
class Unguarded:
    def __enter__(self) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

@final
class Emptied: ...

@final
class LRU(Store):
    def __new__(cls, max_entries: int, max_bytes: int | None = None) -> Self: ...
