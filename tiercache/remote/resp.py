"""RESP2 on the wire: packs commands, reads replies, does no I/O.

hiredis reads if it is installed (extra `fast`); else this page, with the same methods.
"""

import re
from collections.abc import Iterable
from typing import Any

from tiercache.local.packing import pack as pack

try:
    import hiredis  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # the extra `fast` is not installed
    hiredis = None  # type: ignore[assignment,unused-ignore]

_IN_SCRIPT = re.compile(r"(ERR Error running script [^:]*: @user_script:\d+: )?(@?user_script: ?\d+: )?-?")  # 6.2's
_NO_PERMISSION = ("The user executing the script can't", "ERR ACL failure in script: ")  # 6.2's and 7.2's on
_LINE = 65_536  # longer lines, and arrays of more elements, are nobody's reply to us


class Refusal(Exception):
    """An error reply. `code` is its first word: OOM, READONLY, NOPERM, NOSCRIPT, WRONGTYPE..."""

    @property
    def code(self) -> str:
        text = str(self)
        text = text[_IN_SCRIPT.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too
        word = text.split(" ", 1)[0]
        if any(words in text for words in _NO_PERMISSION):
            return "NOPERM"
        if "Protocol error: unauthenticated" in text:  # a command too long for who has not logged in
            return "NOAUTH"
        return word if word.isupper() else "ERR"


class Malformed(Exception):
    """What came is not RESP2: the connection can't be used any more."""


MALFORMED = (Malformed, MemoryError, TypeError)  # what a reader raises for it: hiredis has errors of its own too
INCOMPLETE = object()


def pack_all(commands: Iterable[tuple[bytes | str | int, ...]]) -> bytes:
    """Several commands, to be sent in one write."""
    return b"".join([pack(*command) for command in commands])


def reader() -> Any:
    """A reader with `feed(data)`, `has_data()` and `gets()`, which returns INCOMPLETE until a whole reply is there.

    Strings are bytes, an error reply is a `Refusal` instance; anything else raises one of MALFORMED.
    """
    if hiredis is None:
        return Reader()
    return hiredis.Reader(protocolError=Malformed, replyError=Refusal, notEnoughData=INCOMPLETE)


class Reader:
    """A RESP2 reader in Python."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def has_data(self) -> bool:
        return self._at < len(self._buffer)

    def gets(self) -> Any:
        start = self._at
        try:
            reply = self._reply(depth=0)
        except IndexError:
            self._at = start
            return INCOMPLETE
        if self._at > 65536 or self._at == len(self._buffer):
            del self._buffer[: self._at]
            self._at = 0
        return reply

    def _line(self) -> bytes:
        end = self._buffer.find(b"\r\n", self._at, self._at + _LINE)
        if end < 0:
            if len(self._buffer) - self._at >= _LINE:
                raise Malformed("not RESP2: an endless line")
            raise IndexError
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return line

    def _reply(self, depth: int) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Refusal(rest.decode(errors="replace"))
        digits = rest.removeprefix(b"-")
        number = int(rest) if digits.isdigit() and len(digits) < 20 else None
        if number is not None and kind == b":":
            return number
        if number is not None and kind == b"$" and number >= -1:
            return self._bulk(number)
        if number is not None and kind == b"*" and -1 <= number < _LINE and depth < 8:
            return None if number < 0 else [self._reply(depth + 1) for _ in range(number)]
        raise Malformed(f"not RESP2: {line[:40]!r}")

    def _bulk(self, length: int) -> bytes | None:
        if length < 0:
            return None
        end = self._at + length
        if len(self._buffer) < end + 2:
            raise IndexError
        if self._buffer[end : end + 2] != b"\r\n":
            raise Malformed("not RESP2: a string is longer than it says")
        data = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return data
