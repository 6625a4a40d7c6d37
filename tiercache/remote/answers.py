"""What Redis's replies say. TypeError or ValueError: no script of ours answers that."""

from typing import Any

from tiercache.local.record import ABSENT, HEADER, MAGIC, Found, Record
from tiercache.port import Busy, Cooldown, Granted, Hit

UNKNOWN_KIND = 255  # stands in for a record that is too large to be fetched


def election(reply: Any) -> Granted | Hit | Busy | Cooldown:
    """The answer of acquire."""
    match reply:
        case [b"GRANTED", attempt] if isinstance(attempt, int):
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


def delegated(reply: Any) -> float:
    """The answer of delegate: seconds that workers have, 0 if there is none."""
    match reply:
        case [b"NOBODY"]:
            return 0.0
        case [b"ASKED", ms]:
            return max(0.001, seconds(ms))
    raise ValueError(reply)


def done(reply: Any) -> None:
    """The answer of write and invalidate."""
    if reply not in (b"OK", [b"OK"]):
        raise ValueError(reply)


def oversized(left: Any, head: Any) -> Found:
    """The answer of PTTL and GETRANGE: a record that can't be opened, but is known by its id."""
    present = type(left) is int and left > 0 and type(head) is bytes
    if not present or len(head) < HEADER.size or not head.startswith(MAGIC):
        return ABSENT
    _, _, codec, _, fresh_ms, hard_ms, delta_ms, _, id = HEADER.unpack_from(head)
    return Found(Record(UNKNOWN_KIND, codec, 0, fresh_ms, hard_ms, delta_ms, id, b""), min(left, hard_ms) / 1000)


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


# Streams.


def entries(reply: Any) -> list[Any]:
    """The answer of XRANGE."""
    if not isinstance(reply, list):
        raise TypeError(reply)
    return reply


def streamed(reply: Any) -> list[Any]:
    """The answer of XREADGROUP on one stream."""
    match reply:
        case [[bytes(), list(found)]]:
            return found
    raise ValueError(reply)


def job(entry: Any) -> tuple[bytes, bytes | None, bytes | None, float]:
    """Of an entry of a stream: id, the fields `key` and `job` (None: they are not there), and when it came."""
    match entry:
        case [bytes(id), [b"key", bytes(key), b"job", bytes(data)]]:
            return id, key, data, _moment(id)
        case [bytes(id), _]:
            return id, None, None, _moment(id)
    raise ValueError(entry)


def _moment(id: bytes) -> float:
    return int(id.partition(b"-")[0]) / 1000


def claimed(reply: Any) -> tuple[bytes, list[bytes]]:
    """The answer of XAUTOCLAIM JUSTID: where to go on, and the ids."""
    match reply:
        case [bytes(start), list(ids), *_]:
            return start, [id for id in ids if isinstance(id, bytes)]
    raise ValueError(reply)


def time(reply: Any) -> float:
    """The server's clock, in seconds."""
    whole, micro = map(int, reply)
    return whole + micro / 1e6
