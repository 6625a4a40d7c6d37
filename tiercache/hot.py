"""Which keys are popular, as users are told."""

from typing import NamedTuple


class Hot(NamedTuple):
    """A popular key: its hits in this process's tier 1 per second, decayed, and its share of all hits, 0 to 1."""

    key: str
    rate: float
    share: float
