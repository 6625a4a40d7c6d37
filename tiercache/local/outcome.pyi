from typing import Any, Self, final

from tiercache.result import Source

@final
class Outcome:
    value: Any
    error: BaseException | None
    source: Source
    born: float | None
    failure: BaseException | None
    stale: bool
    def __init__(
        self,
        value: Any = None,
        error: BaseException | None = None,
        *,
        source: Source = "loaded",
        born: float | None = None,
    ) -> None: ...
    def shared(self) -> Self: ...
    def followed(self) -> Self: ...

AGAIN: Outcome

def answer(value: Any, source: Source = "local", born: float | None = None) -> Outcome: ...
