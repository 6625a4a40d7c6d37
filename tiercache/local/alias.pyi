from collections.abc import Iterable
from typing import Self, final

@final
class Aliases:
    def __new__(cls, bound: int = 1, ignored: Iterable[int] = ()) -> Self: ...
