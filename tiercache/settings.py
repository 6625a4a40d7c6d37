"""The cache's settings: checked before anything is built, each error naming its field."""

from collections.abc import Callable
from typing import Any

import cachetools

from tiercache.compression import compress
from tiercache.errors import PolicyError
from tiercache.policy import Policy, one_of, seconds
from tiercache.signing import check_keys
from tiercache.values import estimate


def check_settings(**given: Any) -> None:
    """PolicyError or TypeError, naming the field, for a setting outside its range."""
    if given["policy"] is not None and not isinstance(given["policy"], Policy):
        raise TypeError(f"policy must be a Policy, not {type(given['policy']).__name__}")
    _store(given["store"], given["max_bytes"])
    codec = given["codec"]
    if codec is not None and not all(hasattr(codec, name) for name in ("id", "encode", "decode")):
        raise TypeError(f"codec must have id, encode and decode (see tiercache.Codec); {type(codec).__name__} has not")
    for name in ("max_entries", "max_value_bytes", "refresh_concurrency"):
        _whole(name, given[name], least=1)
    for name in ("push_bytes", "compress_above"):
        _whole(name, given[name], least=0)
    if given["max_bytes"] is not None:
        _whole("max_bytes", given["max_bytes"], least=1)
    for name in ("connect_timeout", "call_timeout", "call_budget"):
        seconds(name, given[name])
    for name in ("weigh", "around_load"):
        if given[name] is not None and not callable(given[name]):
            raise TypeError(f"{name} must be callable, not {type(given[name]).__name__}")
    if given["sign_with"] is not None:
        check_keys(given["sign_with"])
    one_of("compress", given["compress"], (None, "zlib", "zstd"))
    compress(b"", given["compress"], 0)  # PolicyError where its library is not installed


def _store(store: Any, max_bytes: int | None) -> None:
    if store is None:
        return
    if not isinstance(store, cachetools.Cache):
        raise TypeError(f"store must be a cachetools.Cache, not {type(store).__name__}")
    if len(store):
        raise PolicyError("store: must be empty; the cache puts entries of its own into it")
    if max_bytes is not None:
        raise PolicyError("max_bytes: a store bounds itself; give its maxsize and getsizeof instead")


def check_ahead(policy: Policy, hits_are_counted: bool) -> Policy:
    """`policy`; PolicyError where it asks for a popularity that nobody measures."""
    if policy.refresh_ahead and not hits_are_counted:
        raise PolicyError("refresh_ahead=True: the hits of a store of your own are not counted; use the built-in one")
    return policy


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or value >= 2**31:
        huge = isinstance(value, int) and abs(value) >= 2**31  # perhaps too long to be written out
        shown = "a larger int" if huge else repr(value)
        raise PolicyError(f"{name}={shown}: must be a whole number from {least} to 2**31 - 1")


def weigher(weigh: Callable[[Any], int] | None, max_bytes: int | None) -> Callable[[Any, int], int]:
    """What a value counts against `max_bytes`: `weigh(value)`, else its encoded size, else an estimate."""
    if weigh is not None:
        return lambda value, size: max(0, int(weigh(value)))
    if max_bytes is None:
        return lambda value, size: size
    return lambda value, size: size or estimate(value)
