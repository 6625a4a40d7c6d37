"""Signed records: who can write to Redis, but has no key, can't make a value that is believed.

The tag is keyed BLAKE2b over namespace, wire key, header and payload, so a record is good in its own place only, with
its own lifetimes. The soft-invalid bit is left out, because a script sets it where the record stands; set by somebody
else it makes a value less usable, and cleared it gives back what he could have kept a copy of.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from tiercache.errors import CodecError, PolicyError
from tiercache.local.record import Record

SHORTEST = 16  # bytes of a key
TAG_SIZE = 16


def check_keys(sign_with: bytes | Sequence[bytes]) -> list[bytes]:
    """The keys, the signing one first; TypeError or PolicyError names the setting, and shows no key."""
    keys: list[Any] = list(sign_with) if isinstance(sign_with, (list, tuple)) else [sign_with]
    if not all(isinstance(key, bytes) for key in keys):
        kinds = ", ".join(type(key).__name__ for key in keys)
        raise TypeError(f"sign_with must be bytes, or a list or tuple of bytes, not {kinds}")
    if not keys or min(map(len, keys)) < SHORTEST:
        raise PolicyError(f"sign_with: must be one or more keys of at least {SHORTEST} bytes, such as os.urandom(32)")
    return keys


class Signer:
    """Signs with the first key and believes them all, so that keys can be changed while the fleet runs."""

    def __init__(self, keys: Sequence[bytes], namespace: str) -> None:
        self._namespace = namespace
        self._states = [_state(key) for key in keys]

    def sign(self, key: str, record: Record) -> Record:
        """The record with a tag at the end of its payload."""
        return record._replace(payload=record.payload + self._tag(self._states[0], key, record), signed=True)

    def check(self, key: str, record: Record) -> None:
        """CodecError unless one of the keys signed this very record for this key."""
        if not record.signed:
            raise CodecError("it is not signed")
        bare, tag = bare_record(record), record.payload[-TAG_SIZE:]
        if not any(hmac.compare_digest(self._tag(state, key, bare), tag) for state in self._states):
            raise CodecError("its signature is not of any key in sign_with, or not of this record")

    def _tag(self, state: "hashlib.blake2b", key: str, record: Record) -> bytes:
        name = f"{self._namespace}:{key}".encode()  # a namespace has no colon
        tag = state.copy()
        tag.update(len(name).to_bytes(4) + name + record._replace(soft_invalid=False).header())
        tag.update(record.payload)
        return tag.digest()


def bare_record(record: Record) -> Record:
    """A record as it was before it was signed."""
    return record._replace(payload=record.payload[:-TAG_SIZE], signed=False) if record.signed else record


def _state(key: bytes) -> "hashlib.blake2b":
    # A key of any length becomes one of BLAKE2b's; what it takes to begin with it is paid once.
    derived = hashlib.blake2b(key, person=b"tiercache key").digest()
    return hashlib.blake2b(key=derived, digest_size=TAG_SIZE, person=b"tiercache record")
