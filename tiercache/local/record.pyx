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
cimport cython
from libc.math cimport rint
from libc.string cimport memcmp

import struct

from tiercache.local.xfetch cimport clamped

MAGIC = b"tc\x01"
HEADER = struct.Struct(">3sBBBQQII8s")
VALUE, NONE, ERROR, JOB = 0, 1, 2, 3
SIGNED = 0x40
SOFT_INVALID = 0x80

cdef enum:
    SIZE = 38  # of the header


@cython.final
cdef class Record:
    """A record as it stands in Redis; lifetimes in milliseconds, `id` 8 bytes. It never changes."""

    _fields = (
        "kind", "codec", "compression", "fresh_ms", "hard_ms", "delta_ms", "id", "payload", "soft_invalid", "signed",
    )

    def __init__(
        self,
        unsigned char kind,
        unsigned char codec,
        unsigned char compression,
        unsigned long long fresh_ms,
        unsigned long long hard_ms,
        unsigned int delta_ms,
        bytes id not None,
        bytes payload not None,
        bint soft_invalid=False,
        bint signed=False,
    ):
        self.kind, self.codec, self.compression = kind, codec, compression
        self.fresh_ms, self.hard_ms, self.delta_ms = fresh_ms, hard_ms, delta_ms
        self.id, self.payload = id, payload
        self.soft_invalid, self.signed = soft_invalid, signed

    cpdef tuple ends(self, double sent, double left):
        """Its ends on a clock that showed `sent` when it had `left` seconds to live: fresh and hard; its load time.

        The load time is as XFetch uses it. All in seconds.
        """
        cdef double hard = sent + left
        cdef double fresh = min(hard, hard - (<double>self.hard_ms - <double>self.fresh_ms) / 1000)
        return fresh, hard, clamped(self.delta_ms / 1000.0, self.fresh_ms / 1000.0)

    def plain(self, codec, Py_ssize_t most):
        """The payload of a value that needs nothing but decoding by this codec, if it has at most so many bytes."""
        usual = self.kind == 0 and codec == self.codec and self.compression == 0 and not self.signed
        return self.payload if usual and len(self.payload) <= most else None

    def pack(self):
        """The bytes to store."""
        return self.header() + self.payload

    def header(self):
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

    def _replace(self, **changes):
        """The same but for these fields, like a named tuple's."""
        return Record(**{name: getattr(self, name) for name in Record._fields} | changes)

    def __eq__(self, other):
        if not isinstance(other, Record):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Record._fields)

    def __hash__(self):
        return hash((self.id, self.payload))

    def __repr__(self):
        return f"Record({', '.join([f'{name}={getattr(self, name)!r}' for name in Record._fields])})"


@cython.final
cdef class Found:
    """What a read saw: the record (None: absent) and its remaining life in seconds."""

    def __init__(self, Record record, double remaining):
        self.record, self.remaining = record, remaining


cdef inline unsigned long long number(const unsigned char* at, int size) noexcept:
    cdef unsigned long long value = 0
    for n in range(size):
        value = value << 8 | at[n]
    return value


def milliseconds(double seconds):
    """Seconds as lifetimes are stored: rounded, and not below 0."""
    return <unsigned long long>rint(max(0.0, seconds * 1000))


cpdef Record unpack(bytes data):
    """The record in `data`, or None where magic or length is wrong."""
    cdef const unsigned char* head = data  # TypeError for None
    cdef Py_ssize_t size = len(data)
    cdef Record record
    if size < SIZE or memcmp(head, b"tc\x01", 3) != 0 or <unsigned long long>(size - SIZE) != number(head + 26, 4):
        return None
    record = Record.__new__(Record)
    record.kind, record.codec, record.compression = head[3], head[4], head[5] & 0x0F
    record.fresh_ms, record.hard_ms = number(head + 6, 8), number(head + 14, 8)
    record.delta_ms = <unsigned int>number(head + 22, 4)
    record.id, record.payload = head[30:SIZE], head[SIZE:size]
    record.soft_invalid, record.signed = head[5] & 0x80 != 0, head[5] & 0x40 != 0
    return record


ABSENT = Found(None, 0.0)


def found(left, data):
    """What PTTL and GET say; None for a record whose magic or length is wrong."""
    cdef Found seen
    cdef Record record
    if type(left) is not int or left <= 0 or type(data) is not bytes:
        return ABSENT
    record = unpack(data)
    if record is None:
        return None
    record.fresh_ms = min(record.fresh_ms, record.hard_ms)
    seen = Found.__new__(Found)
    # PTTL and GET are not atomic: the record's own lifetime bounds what an interposed write can add.
    seen.record, seen.remaining = record, min(<double>left, <double>record.hard_ms) / 1000
    return seen
