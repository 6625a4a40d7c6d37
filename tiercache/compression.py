"""Payloads made smaller and read again, within bounded memory whatever they claim."""

import zlib
from importlib import import_module
from typing import Any

from tiercache.errors import CodecError, PolicyError


def compress(payload: bytes, method: str | None, above: int) -> tuple[bytes, int]:
    """The payload made smaller, and the compression id: 0 none, 1 zlib, 2 zstd.

    `method` is None, "zlib" or "zstd". A payload of at most `above` bytes, and one that would not become
    smaller, comes back as it is with id 0. PolicyError: the method is unknown or not installed.
    """
    if method is None:
        return payload, 0
    if method not in ("zlib", "zstd"):
        raise PolicyError(f'compress must be None, "zlib" or "zstd", not {method!r}')
    zstd = _zstandard(PolicyError) if method == "zstd" else None
    if len(payload) <= above:
        return payload, 0
    small = zstd.ZstdCompressor().compress(payload) if zstd else zlib.compress(payload)
    return (small, 2 if zstd else 1) if len(small) < len(payload) else (payload, 0)


def decompress(data: bytes, compression: int, limit: int) -> bytes:
    """The payload; CodecError if it is malformed, truncated, followed by anything or over `limit` bytes.

    Its memory is bounded by `limit`, whatever the data claim.
    """
    if compression == 1:
        return _inflate(data, limit)
    if compression == 2:
        return _decompress_zstd(data, limit)
    if compression != 0:
        raise CodecError(f"compression {compression} is not known to this version")
    if len(data) > limit:
        raise CodecError(f"the payload is {len(data):,} bytes; the limit is {limit:,}")
    return data


def _inflate(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        payload = stream.decompress(data, limit + 1)
    except zlib.error as exc:
        raise CodecError(f"malformed zlib payload: {exc}") from exc
    if len(payload) > limit:
        raise CodecError(f"the zlib payload is over {limit:,} bytes decompressed")
    if not stream.eof or stream.unused_data:
        raise CodecError("malformed zlib payload: truncated, or followed by something")
    return payload


def _decompress_zstd(data: bytes, limit: int) -> bytes:
    zstd = _zstandard(CodecError)
    window = min(max(limit, 1 << 10), 1 << 27)
    try:
        size = zstd.get_frame_parameters(data).content_size
        if not 0 < size <= limit:
            raise CodecError(f"the zstd payload claims {size:,} bytes; the limit is {limit:,}")
        stream = zstd.ZstdDecompressor(max_window_size=window)
        payload: bytes = stream.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstd.ZstdError as exc:
        raise CodecError(f"malformed zstd payload: {exc}") from exc
    return payload


def _zstandard(error: type[Exception]) -> Any:
    try:
        return import_module("zstandard")
    except ImportError:
        raise error("zstd needs the package zstandard: pip install 'tiercache-client[zstd]'") from None
