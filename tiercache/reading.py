"""What a record that was read is worth: its value, its lifetimes on this process's clock, and who may have it."""

import logging
from typing import Any

from tiercache.errors import CodecError
from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome
from tiercache.local.record import Found, Record
from tiercache.local.worth import worth
from tiercache.policy import Policy
from tiercache.port import Fill, Node, Old

log = logging.getLogger("tiercache")


def look(
    node: Node, flight: Flight, found: Found, policy: Policy, sent: float, epoch: int
) -> tuple[Outcome | None, Fill | None]:
    """The outcome of a record, None where it may not be served, and what to fill tier 1 with, None if unreadable."""
    record = found.record
    if record is None:
        return None, None
    kept = flight.seen
    if kept is not None and kept.id != record.id:
        kept = None
    opened = open_record(node, flight.key, record, policy, kept)
    if opened is None:
        return None, None
    value, size = opened
    if kept is None:
        size = node.weigh(value, size)
    return worth(found, value, size, policy, sent, epoch, node.now())


def open_record(node: Node, key: str, record: Record, policy: Policy, kept: Any = None) -> tuple[Any, int] | None:
    """A record's value and decoded size, or value and weight of `kept`, which tier 1 has of it; None: undecodable."""
    try:
        if node.values.signed:
            node.values.verify(key, record)
        return (kept.value, kept.weight) if kept is not None else node.values.open(record, policy)
    except CodecError as error:
        node.count("undecodable")
        if node.values.may_complain(node.now()):
            log.warning("The record of %r can't be read and counts as absent: %s", key, error)
        return None


def unverified(node: Node, old: Old | None, policy: Policy) -> Outcome | None:
    """Redis can't be read: an entry that nobody can verify is served until it expires."""
    now = node.now()
    if old is None or now >= min(old.hard, old.fresh + policy.stale_while_revalidate):
        return None
    node.count("unverified_served")
    return old.serves(now)
