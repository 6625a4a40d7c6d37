from typing import Self, final

@final
class Hottest:
    def __new__(cls, most: int) -> Self: ...
    def listed(self) -> list[tuple[str, float, float]]: ...

@final
class Warmth:
    def __new__(cls, now: float, hits: int) -> Self: ...
