"""Which keys are popular, as users are told."""

from typing import NamedTuple


class Hot(NamedTuple):
    """A popular key: its hits in tier 1 per second, decayed, and its share of all hits, 0 to 1.

    They are this process's, or with `fleet=True` those of all.
    """

    key: str
    rate: float
    share: float
