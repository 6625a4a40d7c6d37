"""The atomic steps of Django's API: from a value and its seconds left to an answer and what is written."""

import os
from typing import Any

from tiercache.contrib.pickling import freeze, thaw
from tiercache.contrib.swap import ABSENT, Decide, Step

LONGEST = 1e9  # seconds; as long as a ttl can be


def new_generation() -> str:
    """What stands in front of every key until the next `clear`."""
    return os.urandom(8).hex()


def begin_generation(known: Any, left: float) -> Step:
    """The generation that stands, or the first."""
    if known is not ABSENT:
        return Step(known)
    new = new_generation()
    return Step(new, new, LONGEST)


def adding(value: Any, ttl: float) -> Decide:
    """Was there nothing? Then `value` is there now."""

    def decide(known: Any, left: float) -> Step:
        return Step(False) if known is not ABSENT else Step(True, value, ttl) if ttl else Step(True)

    return decide


def touching(ttl: float) -> Decide:
    """Is it there, and for `ttl` seconds from now on?"""

    def decide(known: Any, left: float) -> Step:
        return Step(False) if known is ABSENT else Step(True, known, ttl) if ttl else Step(True, ABSENT)

    return decide


def deleting(known: Any, left: float) -> Step:
    """Was it there?"""
    return Step(known is not ABSENT, ABSENT)  # also where there is none: a load that runs may not store its own


def adding_to(delta: Any) -> Decide:
    """The sum, which keeps the seconds that the value has left; None where there is no value."""

    def decide(known: Any, left: float) -> Step:
        if known is ABSENT:
            return Step(None)
        counted = thaw(known) + delta
        return Step(counted, freeze(counted), left)

    return decide
