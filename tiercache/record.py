"""The record in Redis: a header that the scripts can read, and a payload that they never open.

    offset  size  field
         0     3  magic b"tc\\x01" (format 1)
         3     1  kind: 0 value, 1 negative None, 2 negative error, 3 a worker's job (never stored under a key)
         4     1  codec id
         5     1  flags: low nibble compression (0 none, 1 zlib, 2 zstd), 0x40 signed, 0x80 soft-invalid
         6     8  fresh_ms, 14: 8 hard_ms, 22: 4 delta_ms, 26: 4 payload length, 30: 8 id, 38: payload

Integers are big-endian. A record whose magic or length is wrong is absent for everybody, the scripts too. The payload
of a signed record ends with its tag (signing.py).
"""

import struct
from typing import NamedTuple

MAGIC = b"tc\x01"
HEADER = struct.Struct(">3sBBBQQII8s")
VALUE, NONE, ERROR, JOB = 0, 1, 2, 3
SIGNED = 0x40
SOFT_INVALID = 0x80


class Record(NamedTuple):
    """A record as it stands in Redis; lifetimes in milliseconds, `id` 8 bytes."""

    kind: int
    codec: int
    compression: int
    fresh_ms: int
    hard_ms: int
    delta_ms: int
    id: bytes
    payload: bytes
    soft_invalid: bool = False
    signed: bool = False

    def pack(self) -> bytes:
        """The bytes to store."""
        return self.header() + self.payload

    def header(self) -> bytes:
        """The bytes before the payload."""
        flags = self.compression | (SIGNED if self.signed else 0) | (SOFT_INVALID if self.soft_invalid else 0)
        return HEADER.pack(
            MAGIC,
            self.kind,
            self.codec,
            flags,
            self.fresh_ms,
            self.hard_ms,
            self.delta_ms,
            len(self.payload),
            self.id,
        )


def unpack(data: bytes) -> Record | None:
    """The record in `data`, or None where magic or length is wrong."""
    if len(data) < HEADER.size:
        return None
    magic, kind, codec, flags, fresh_ms, hard_ms, delta_ms, length, id = HEADER.unpack_from(data)
    if magic != MAGIC or len(data) != HEADER.size + length:
        return None
    payload, soft_invalid, signed = data[HEADER.size :], flags >= SOFT_INVALID, flags & SIGNED != 0
    return Record(kind, codec, flags & 0x0F, fresh_ms, hard_ms, delta_ms, id, payload, soft_invalid, signed)
