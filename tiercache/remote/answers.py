"""What Redis's replies say. TypeError or ValueError: no script of ours answers that."""

from typing import Any

from tiercache.port import Busy, Cooldown, Found, Granted, Hit
from tiercache.record import HEADER, MAGIC, Record, unpack

ABSENT = Found(None, 0.0)
UNKNOWN_KIND = 255  # stands in for a record that is too large to be fetched


def election(reply: Any) -> Granted | Hit | Busy | Cooldown:
    """The answer of acquire."""
    match reply:
        case [b"GRANTED", int(attempt)]:
            return Granted(attempt)
        case [b"HIT"]:
            return Hit()
        case [b"BUSY", left, bytes(holder)]:
            return Busy(seconds(left), holder)
        case [b"COOLDOWN", left, reason, name, message]:
            return Cooldown(seconds(left), text(reason), text(name), text(message))
    raise ValueError(reply)


def verdict(reply: Any) -> tuple[bytes, str]:
    """The answer of commit and renew, and the error of a refused store."""
    match reply:
        case [(b"OK" | b"REJECTED" | b"LOST") as word]:
            return word, ""
        case [b"REFUSED", why]:
            return b"REFUSED", text(why)
    raise ValueError(reply)


def pause(reply: Any) -> float:
    """The answer of release: the cooldown that it started, in seconds."""
    match reply:
        case [b"OK" | b"LOST", ms]:
            return seconds(ms)
    raise ValueError(reply)


def done(reply: Any) -> None:
    """The answer of write and invalidate."""
    if reply not in (b"OK", [b"OK"]):
        raise ValueError(reply)


def record(left: Any, data: Any) -> Found | None:
    """The answer of PTTL and GET; None for a record whose magic or length is wrong."""
    if not present(left, data):
        return ABSENT
    found = unpack(data)
    if found is None:
        return None
    hard_ms = found.hard_ms
    if found.fresh_ms > hard_ms:
        found = found._replace(fresh_ms=hard_ms)
    # PTTL and GET are not atomic: the record's own lifetime bounds what an interposed write can add.
    return Found(found, (left if left < hard_ms else hard_ms) / 1000)


def oversized(left: Any, head: Any) -> Found:
    """The answer of PTTL and GETRANGE: a record that can't be opened, but is known by its id."""
    if not present(left, head) or len(head) < HEADER.size or not head.startswith(MAGIC):
        return ABSENT
    _, _, codec, _, fresh_ms, hard_ms, delta_ms, _, id = HEADER.unpack_from(head)
    return Found(Record(UNKNOWN_KIND, codec, 0, fresh_ms, hard_ms, delta_ms, id, b""), min(left, hard_ms) / 1000)


def present(left: Any, data: Any) -> bool:
    """Does something with a lifetime stand there?"""
    return isinstance(left, int) and left > 0 and isinstance(data, bytes)


def seconds(ms: Any) -> float:
    """Milliseconds that Redis named, within reason."""
    if not isinstance(ms, int):
        raise TypeError(ms)
    return min(max(ms, 0), 10**12) / 1000


def text(data: Any) -> str:
    """A description, cut at 200 characters."""
    if not isinstance(data, bytes):
        raise TypeError(data)
    return data.decode(errors="replace")[:200]
