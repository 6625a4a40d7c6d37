from collections.abc import Callable, Coroutine
from typing import Any, final

from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome

_Call = Callable[..., Coroutine[Any, Any, Outcome | Following]]

@final
class Following:
    def __init__(self, flight: Flight, port: Any, seconds: float, rest: _Call, *more: Any) -> None: ...

async def value_of(call: _Call, *words: Any) -> Any: ...
async def outcome_of(call: _Call, *words: Any) -> Outcome: ...
def outcome_in_thread(found: Outcome | Following) -> Outcome: ...
