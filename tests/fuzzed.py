"""Hostile data, made of a random.Random: payloads, records, inbox messages and replies, whole and damaged.

Hypothesis draws the seeds, each of some cases: it would take ten times as long to draw the data itself.
"""

import datetime as dt
import random
import struct
import uuid
import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiercache.codec import MsgpackCodec
from tiercache.local.record import HEADER, MAGIC
from tiercache.local.table import Raises
from tiercache.remote.resp import Refusal

HANG = 20_000  # milliseconds after which a seed's cases count as ones that hang
EACH = 10  # cases of one seed
encode = MsgpackCodec().encode


def fuzz(make: Callable[[random.Random], Any], check: Callable[[Any], object], cases: int) -> None:
    """Run `check` on so many cases that `make` made, within HANG; a failure names its case."""

    @settings(max_examples=cases // EACH, deadline=HANG, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64))
    def run(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(EACH):
            case = make(chance)
            try:
                check(case)
            except BaseException as error:
                error.add_note(f"case: {case!r}")
                raise

    run()


def picture(value: Any) -> Any:
    """A value with all its types in it, the same for equal values whatever the order of their sets."""
    kind = type(value)
    if kind in (set, frozenset):
        return kind.__name__, sorted(map(repr, map(picture, value)))
    if kind in (list, tuple):
        return kind.__name__, [picture(part) for part in value]
    if kind is dict:
        return "dict", [(picture(key), picture(part)) for key, part in value.items()]
    if kind is Raises:
        return "Raises", type(value.error).__name__, picture(value.error.args)
    return kind.__name__, repr(value)


# Good data.

_MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 999_999)
_ZONES = [dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=45), "here"), ZoneInfo("Europe/Berlin"), None]
_SCALARS: list[Callable[[random.Random], Any]] = [
    lambda chance: chance.choice([None, True, False, float("nan"), float("inf"), -0.0, 1.5, Decimal("sNaN12"), 2**70]),
    lambda chance: chance.randrange(-(2**70), 2**70) >> chance.randrange(70),
    lambda chance: chance.choice(["", "k", "é" * 20, "x" * 40]),
    lambda chance: chance.randbytes(chance.randrange(12)),
    lambda chance: _MOMENT.replace(tzinfo=chance.choice(_ZONES), fold=chance.randrange(2)),
    lambda chance: chance.choice([_MOMENT.date(), _MOMENT.time(), dt.timedelta(-1, 5)]),
    lambda chance: chance.choice([Decimal("-1E+99"), uuid.UUID(int=7)]),
]


def value(chance: random.Random, depth: int = 3) -> Any:
    """A value of the supported types."""
    kind = chance.randrange(12)
    if kind < 7 or not depth:
        return chance.choice(_SCALARS)(chance)
    parts = [value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        return parts
    if kind == 8:
        return tuple(parts)
    if kind == 9:
        return [LookupError.__name__, parts]
    if kind == 10:
        return chance.choice([set, frozenset])([1, "a", (2, b"x"), frozenset([3])][: len(parts)])
    return dict(zip(["a", 2, ("t", 1), None], parts, strict=False))


# Damage.


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut, extended, spliced with themselves, or given a huge length; one in six is left as it is."""
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        at = chance.randrange(len(data) + 1)
        how = chance.randrange(6)
        if how < 2 and at < len(data):
            data = data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]
        elif how == 2:
            data = data[:at]
        elif how == 3:
            data += chance.randbytes(chance.randrange(20))
        elif how == 4:
            data = data[:at] + data[chance.randrange(len(data) + 1) :]
        else:
            data = data[:at] + chance.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)]) + data[at + 4 :]
    return data


_CLAIMS = [bytes([mark]) + size for mark in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF) for size in (b"\xff" * 4, b"\0\xff\xff\xff")]
_CODES = [*range(8), *range(15, 21), 100, 127, -1, -2, -128]
_DATA = [b"", bytes(8), bytes(12), b"\xff" * 12, b"NaN", b"1e999999999", b"\2UTC"]


def nonsense(chance: random.Random) -> bytes:
    """Pieces of msgpack: marks, claims of huge contents, extensions of every code."""
    out = [b"\xc1"] if chance.random() < 0.3 else []
    for _ in range(chance.randrange(10)):
        kind = chance.randrange(4)
        if kind == 0:
            out.append(chance.choice(_CLAIMS))
        elif kind == 1:
            data = chance.choice([*_DATA, chance.randbytes(chance.randrange(16))])
            out.append(b"\xc7" + struct.pack(">Bb", len(data), chance.choice(_CODES)) + data)
        else:
            out.append(bytes([chance.choice([0, 0x7F, *range(0x80, 0xA3), *range(0xC0, 0x100)])]))
    return b"".join(out)


def payload(chance: random.Random) -> bytes:
    return nonsense(chance) if chance.random() < 0.4 else damaged(chance, encode(value(chance)))


_PACK: dict[int, Callable[[bytes], bytes]] = {1: zlib.compress, 2: zstandard.ZstdCompressor().compress}
_MS = [0, 1, 20_000, 40_000, 2**32, 2**63, 2**64 - 1]


def record(chance: random.Random) -> bytes:
    """A record, or something like one: damaged in its payload, its header, its whole or nowhere."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(80))
    data = encode(value(chance)) if chance.random() < 0.5 else payload(chance)
    compression = chance.choice([0, 0, 0, 1, 2, 3, 15])
    if compression in _PACK and chance.random() < 0.8:
        data = _PACK[compression](data)
        data = damaged(chance, data) if chance.random() < 0.5 else data
    flags = compression | chance.choice([0, 0, 0, 0, 0x10, 0x40, 0x80])
    length = chance.choice([len(data)] * 12 + [0, len(data) + 1, 2**32 - 1])
    kind, codec = chance.choice([0, 0, 0, 0, 1, 2, 3, 255]), chance.choice([1, 1, 1, 1, 1, 0, 255])
    ends = chance.choice(_MS), chance.choice(_MS), chance.randrange(2**32)
    whole = HEADER.pack(MAGIC, kind, codec, flags, *ends, length, chance.randbytes(8)) + data
    return whole if chance.random() < 0.7 else damaged(chance, whole)


# What Redis says.

_WORDS = [b"k", b"ready", b"failed", b"retry", b"epoch", b"12345678", b"", b"\xff"]
_ANSWERS = [b"OK", b"GRANTED", b"HIT", b"BUSY", b"COOLDOWN", b"LOST", b"REJECTED", b"REFUSED"]


def message(chance: random.Random) -> bytes:
    """An inbox message, or a failure's description."""
    kind = chance.randrange(5)
    if kind == 0:
        return nonsense(chance)
    words: list[Any] = [chance.choice(_WORDS) for _ in range(chance.randrange(7))]
    if kind == 1:
        words = [b"k", b"12345678", b"ready", record(chance)]
    elif kind == 2:
        words = [chance.randbytes(250), b"text", chance.choice([0, -1, 100, 2**63, 2**64 - 1, 1.5, None, b"1"])]
    elif kind == 3:
        words = [chance.choice([*words, 1, None, [b"k"], 2.5]) for _ in range(5)]
    return damaged(chance, msgpack.packb(words)) if chance.random() < 0.5 else msgpack.packb(words)


def reply(chance: random.Random, depth: int = 3) -> Any:
    """A reply as a reader gives it."""
    kind = chance.randrange(9)
    if kind < 3 and depth:
        parts = [reply(chance, depth - 1) for _ in range(chance.randrange(6))]
        return [chance.choice(_ANSWERS), *parts] if kind else parts
    if kind == 3:
        return Refusal(chance.choice(["WRONGTYPE x", "NOPERM", "NOSCRIPT", "", "x"]))
    if kind == 4:
        return record(chance)
    return chance.choice([None, 1.5, float("nan"), True, {}, chance.randrange(-5, 5), 2**63 - 1, *_ANSWERS, *_WORDS])


_SIMPLE = """+OK :1 :60000 :-2 :9223372036854775807 $-1 *-1 *0 *1 *2 *3 *5 $0| $2|OK $3|HIT $4|BUSY $4|LOST $7|GRANTED
    $7|REFUSED $8|COOLDOWN $8|REJECTED $8|12345678 -NOSCRIPT -OOM -WRONGTYPE -x %1|+a|+b ~1|+a ,1.5 ,nan #t _
    (12345678901234567890 =7|txt:abc >2|+a|+b *4000000000 $4000000000 HTTP/1.1 *1|$2|OK *1|$2|OK *1|$3|HIT
    *2|$7|GRANTED|:1"""
_LINES = [line.replace("|", "\r\n").encode() + b"\r\n" for line in _SIMPLE.split()]
_LINES += [b"-\xff\r\n", b"(" + b"9" * 5000 + b"\r\n"]


def resp(chance: random.Random) -> bytes:
    """Bytes as a server might send them: replies of RESP2 and RESP3, whole, odd or broken."""
    out = []
    for _ in range(chance.randrange(1, 4)):
        data = record(chance)
        out.append(chance.choice([*_LINES, b"$%d\r\n%b\r\n" % (len(data), data)]))
        if chance.random() < 0.3:
            out.append(b":60000\r\n$%d\r\n%b\r\n" % (len(data), data))
    whole = b"".join(out)
    return whole if chance.random() < 0.7 else damaged(chance, whole)
