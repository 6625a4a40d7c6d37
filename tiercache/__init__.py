"""A two-tier cache client that ends cache stampedes: one load per key in the whole fleet."""

from tiercache.cache import Cache
from tiercache.codec import Codec, MsgpackCodec
from tiercache.errors import (
    CacheClosed,
    CodecError,
    LoadFailed,
    LoadTimeout,
    PolicyError,
    ReentrantLoadError,
    RemoteUnavailable,
    TierCacheError,
)
from tiercache.hot import Hot
from tiercache.loaded import Loaded
from tiercache.policy import Policy
from tiercache.result import Result

__version__ = "0.1.0"

__all__ = [
    "Cache",
    "CacheClosed",
    "Codec",
    "CodecError",
    "Hot",
    "LoadFailed",
    "LoadTimeout",
    "Loaded",
    "MsgpackCodec",
    "Policy",
    "PolicyError",
    "ReentrantLoadError",
    "RemoteUnavailable",
    "Result",
    "TierCacheError",
]
