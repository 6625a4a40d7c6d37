"""Pickled values, for caches whose records are signed.

Whoever makes a pickle can run code where it is loaded. So a pickle from Redis is loaded only after its record's
signature was found good: whoever holds a key in `sign_with` is trusted with running code in every process of the
cache, and whoever can only write to Redis is not.
"""

import pickle
from collections.abc import Sequence
from typing import Any

from tiercache.cache import Cache
from tiercache.errors import CodecError
from tiercache.signing import check_keys

PROTOCOL = 5  # the highest of every Python that is supported, so that they share their values
_SHAREABLE = frozenset({type(None), bool, int, float, complex, str, bytes})


class Pickled:
    """A value as a pickle, so that every reader gets an object of its own."""

    __slots__ = ("_spare", "data")

    def __init__(self, data: bytes, *spare: Any) -> None:
        self.data = data
        self._spare = list(spare)  # what loading `data` gave already: the first reader's

    def value(self) -> Any:
        """The value, new."""
        try:
            return self._spare.pop()
        except IndexError:
            return pickle.loads(self.data)


def freeze(value: Any) -> Any:
    """What to cache for a value: itself if nobody can change it, else a `Pickled`. Raises what pickle raises."""
    return value if type(value) in _SHAREABLE else Pickled(pickle.dumps(value, PROTOCOL))


def thaw(value: Any) -> Any:
    """The value that `freeze` was given, or an equal one."""
    return value.value() if type(value) is Pickled else value


class _PickleCodec:
    # A payload is one byte, what it is, and a pickle. Private, because it is safe behind signatures alone.
    id = 2

    def encode(self, value: object) -> bytes:
        if type(value) is Pickled:
            return b"F" + value.data
        try:
            return b"V" + pickle.dumps(value, PROTOCOL)
        except Exception as error:
            raise CodecError(f"it can't be pickled: {error}") from error

    def decode(self, data: bytes) -> object:
        try:
            value = pickle.loads(memoryview(data)[1:])
        except Exception as error:  # a class that is not there any more, or whatever loading runs
            raise CodecError(f"it can't be unpickled: {type(error).__name__}: {error}") from error
        return Pickled(data[1:], value) if data[:1] == b"F" else value


def pickling_cache(url: str | None = None, *, sign_with: bytes | Sequence[bytes], **settings: Any) -> Cache:
    """A `Cache` for any value that can be pickled. Every record is signed, and no other is read.

    `sign_with` and `settings` are those of `Cache`. Values are shared between callers; `freeze` them when they are
    stored and `thaw` them when they are read, and each caller has its own. Classes are pickled by name: a value whose
    class can't be imported any more is a miss. Raises what `Cache` raises, and TypeError without `sign_with`.
    """
    check_keys(sign_with)
    return Cache(url, sign_with=sign_with, codec=_PickleCodec(), **settings)
