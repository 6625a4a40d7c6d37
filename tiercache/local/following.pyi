from collections.abc import Callable, Coroutine
from typing import Any, final

from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome

@final
class Following:
    def __init__(
        self, flight: Flight, port: Any, seconds: float, rest: Callable[[], Coroutine[Any, Any, Outcome | Following]]
    ) -> None: ...

async def value_of(calling: Coroutine[Any, Any, Outcome | Following]) -> Any: ...
async def outcome_of(calling: Coroutine[Any, Any, Outcome | Following]) -> Outcome: ...
