from typing import Any

from tiercache.local.outcome import Outcome
from tiercache.local.record import Found

_Fill = tuple[Any, float, float, float, float, float, int, bytes, int]

def worth(
    found: Found, value: object, weight: int, policy: Any, sent: float, epoch: int, now: float
) -> tuple[Outcome | None, _Fill]: ...
