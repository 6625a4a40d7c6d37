"""How long a caller waits, and what it gets when it waits no longer."""

import math
from typing import Literal, NamedTuple

from tiercache import events
from tiercache.errors import LoadTimeout
from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome
from tiercache.local.table import Raises
from tiercache.policy import Policy
from tiercache.port import Node, Old


def tail(policy: Policy) -> float:
    """Seconds past its freshness for which a value may serve at all."""
    return max(policy.stale_while_revalidate, policy.stale_if_error)


class Deadlines(NamedTuple):
    """When a caller's patience ends: for good, and where an old value may serve."""

    until: float = math.inf
    soft: float = math.inf


PATIENT = Deadlines()


def late(node: Node, flight: Flight, policy: Policy) -> Outcome:
    """For a caller whose `timeout` passed: an old value if there is one, else LoadTimeout."""
    error = LoadTimeout(f"no value of {flight.key!r} within the timeout ({policy.timeout:g} s): its load still runs")
    old = _old(node, flight)
    if old is not None and serves(node, old, policy):
        return _stale(node, flight.key, old, "timeout", error)
    return Outcome(error=error)


def meanwhile(node: Node, flight: Flight, policy: Policy) -> Outcome | None:
    """For a caller whose `soft_timeout` passed: an old value that Redis does not deny, if there is one."""
    leader = node.leaders.get(flight)
    if leader is None or flight.cut or not leader.may_leave():
        return None
    return _stale(node, flight.key, leader.old, "soft_timeout")


def _old(node: Node, flight: Flight) -> Old | None:
    # What the flight's leader knows of; what tier 1 has may be invalid since. What was fenced meanwhile is over.
    if flight.cut:
        return None
    leader = node.leaders.get(flight)
    if leader is not None:
        return leader.old  # type: ignore[no-any-return]
    return None if flight.seen is None else node.old(flight.seen)


def serves(node: Node, old: Old, policy: Policy) -> bool:
    """May an old value still serve who gets no new one?"""
    return not isinstance(old.value, Raises) and node.now() < min(old.hard, old.fresh + tail(policy))


def _stale(
    node: Node,
    key: str,
    old: Old,
    why: Literal["timeout", "soft_timeout"],
    failure: BaseException | None = None,
) -> Outcome:
    outcome = old.serves(node.now(), failure)
    if outcome.stale:
        node.tell("stale_served", events.StaleServed, key, why)
    return outcome
