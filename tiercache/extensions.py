"""The types that msgpack lacks: how they are written (a part of the wire format), and read.

A scalar is an extension with data. A container is a *tagged array*: a msgpack array whose first element is an
extension without data. So containers nest in one msgpack stream: no copies, and one depth limit, msgpack's.

| code | type                  | data, big-endian                                                   |
|------|-----------------------|--------------------------------------------------------------------|
| 1    | int beyond 64 bits    | two's complement                                                   |
| 2    | datetime              | u16 year, u8 month day hour minute second, u32 microsecond*, zone  |
| 3    | date                  | u16 year, u8 month day                                             |
| 4    | time                  | u8 hour minute second, u32 microsecond*, zone                      |
| 5    | timedelta             | i32 days, u32 seconds microseconds                                 |
| 6    | Decimal               | its str, ASCII                                                     |
| 7    | UUID                  | 16 bytes                                                           |
| 16   | tuple                 | none; the array goes on with the elements (17, 18 too)             |
| 17   | set                   |                                                                    |
| 18   | frozenset             |                                                                    |
| 19   | registered object     | none; the array goes on with the registered name and the state     |

*: plus 2^31 if fold. zone: nothing if naive; 0 and the offset of a timezone, i64 microseconds; 1, the same
and its name; 2 and the key of a ZoneInfo (names, keys: UTF-8). A msgpack timestamp (-1) is never written.
"""

import datetime as dt
import math
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from struct import Struct
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from msgpack import ExtType  # type: ignore[import-untyped]

from tiercache.errors import CodecError
from tiercache.faults import Write

MANY = 4096  # extensions in a payload, beyond which the keys of its maps and sets are checked
SAME = 64  # keys of one map or set that may have one hash; others than extensions can't be made to have it

INT, DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID_ = range(1, 8)
TUPLE, SET, FROZENSET, OBJECT = range(16, 20)
TAGS = {code: ExtType(code, b"") for code in (TUPLE, SET, FROZENSET, OBJECT)}

_DATETIME = Struct(">HBBBBBI")
_DATE = Struct(">HBB")
_TIME = Struct(">BBBI")
_TIMEDELTA = Struct(">iII")
_OFFSET = Struct(">q")
_FOLD = 1 << 31
_MICROSECOND = dt.timedelta(microseconds=1)


def _write_zone(zone: dt.tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if type(zone) is dt.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        data = _OFFSET.pack(offset // _MICROSECOND)
        return b"\1" + data + name[0].encode() if name else b"\0" + data
    if type(zone) is ZoneInfo and zone.key is not None:
        return b"\2" + zone.key.encode()
    raise TypeError(f"its zone {zone!r} is neither a datetime.timezone nor a zoneinfo.ZoneInfo with a key")


def _read_zone(data: bytes) -> dt.tzinfo | None:
    if not data:
        return None
    if data[0] == 2:
        return ZoneInfo(data[1:].decode())
    if data[0] > 2 or (data[0] == 0 and len(data) != 9):
        raise ValueError("malformed zone")
    offset = dt.timedelta(microseconds=_OFFSET.unpack_from(data, 1)[0])
    return dt.timezone(offset, data[9:].decode()) if data[0] else dt.timezone(offset)


def _write_datetime(value: dt.datetime) -> ExtType:
    micro = value.microsecond | (_FOLD if value.fold else 0)
    clock = (value.hour, value.minute, value.second, micro)
    return ExtType(DATETIME, _DATETIME.pack(value.year, value.month, value.day, *clock) + _write_zone(value.tzinfo))


def _read_datetime(data: bytes) -> dt.datetime:
    year, month, day, hour, minute, second, micro = _DATETIME.unpack_from(data)
    zone = _read_zone(data[_DATETIME.size :])
    return dt.datetime(year, month, day, hour, minute, second, micro & ~_FOLD, zone, fold=micro >> 31)


def _write_time(value: dt.time) -> ExtType:
    micro = value.microsecond | (_FOLD if value.fold else 0)
    return ExtType(TIME, _TIME.pack(value.hour, value.minute, value.second, micro) + _write_zone(value.tzinfo))


def _read_time(data: bytes) -> dt.time:
    hour, minute, second, micro = _TIME.unpack_from(data)
    return dt.time(hour, minute, second, micro & ~_FOLD, _read_zone(data[_TIME.size :]), fold=micro >> 31)


WRITE: dict[type, Write] = {
    int: lambda value: ExtType(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
    dt.datetime: _write_datetime,
    dt.date: lambda value: ExtType(DATE, _DATE.pack(value.year, value.month, value.day)),
    dt.time: _write_time,
    dt.timedelta: lambda value: ExtType(TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds)),
    Decimal: lambda value: ExtType(DECIMAL, str(value).encode("ascii")),
    UUID: lambda value: ExtType(UUID_, value.bytes),
    tuple: lambda value: [TAGS[TUPLE], *value],
    set: lambda value: [TAGS[SET], *value],
    frozenset: lambda value: [TAGS[FROZENSET], *value],
}
"""What the packer is handed instead of a value it has no form for, by exact type."""

READ: dict[int, Callable[[bytes], object]] = {
    INT: lambda data: int.from_bytes(data, "big", signed=True),
    DATETIME: _read_datetime,
    DATE: lambda data: dt.date(*_DATE.unpack(data)),
    TIME: _read_time,
    TIMEDELTA: lambda data: dt.timedelta(*_TIMEDELTA.unpack(data)),
    DECIMAL: lambda data: Decimal(data.decode("ascii")),
    UUID_: lambda data: UUID(bytes=data),
}
"""A scalar from an extension's data, by code."""

BUILD: dict[int, Callable[[list[Any]], object]] = {TUPLE: tuple, SET: set, FROZENSET: frozenset}
"""A container from the elements behind its tag, by code."""


class Crowded(Exception):
    """A payload holds many extensions. Whoever wrote it chose their hashes, so its keys have to be checked."""


def read_scalar(code: int, data: bytes) -> object:
    """msgpack's hook for an extension with data."""
    if code not in READ:
        raise CodecError(f"malformed payload: extension code {code} is unknown in this place")
    return READ[code](data)


class Scalars:
    """msgpack's hook for extensions with data; unless `checked`, it raises Crowded where there are too many."""

    def __init__(self, checked: bool) -> None:
        self._left = math.inf if checked else MANY

    def count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Crowded

    def read(self, code: int, data: bytes) -> object:
        self.count()
        return read_scalar(code, data)


def checked_dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The map of some pairs; CodecError where building it would take quadratic time."""
    _check_spread([key for key, _ in pairs])
    return dict(pairs)


def _check_spread(keys: list[Any]) -> None:
    if len(keys) > SAME and max(Counter(map(hash, keys)).values()) > SAME:
        raise CodecError(f"malformed payload: more than {SAME} keys with the same hash")


def _checked(build: Callable[[list[Any]], object]) -> Callable[[list[Any]], object]:
    def checking(values: list[Any]) -> object:
        _check_spread(values)
        return build(values)

    return checking


class _Tag:
    """Stands in a decoded array's first place until the array is complete."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[[list[Any]], object]) -> None:
        self.build = build


class TaggedArrays:
    """msgpack's hooks for a payload with tagged arrays; `restore` makes an object of [name, state]."""

    def __init__(self, restore: Callable[[list[Any]], object], checked: bool) -> None:
        self.loose = 0
        """How many tags head no array: not 0 at the end if the payload is malformed."""
        self._scalars = Scalars(checked)
        self._tags = {code: _Tag(build) for code, build in (BUILD | {OBJECT: restore}).items()}
        if checked:
            self._tags |= {code: _Tag(_checked(BUILD[code])) for code in (SET, FROZENSET)}

    def extension(self, code: int, data: bytes) -> object:
        tag = self._tags.get(code)
        if tag is None:
            return self._scalars.read(code, data)
        if data:
            raise CodecError(f"malformed payload: tag {code} has data")
        self._scalars.count()
        self.loose += 1
        return tag

    def array(self, values: list[Any]) -> object:
        if not values or type(values[0]) is not _Tag:
            return values
        self.loose -= 1
        build: Callable[[list[Any]], object] = values.pop(0).build
        return build(values)
