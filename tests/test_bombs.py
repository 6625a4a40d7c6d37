"""Records that are small and claim or become huge: memory and time are bounded, as a process of its own measures."""

import gc
import multiprocessing
import struct
import sys
import time
import zlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard

from tiercache import CodecError, Policy
from tiercache.codec import MsgpackCodec
from tiercache.local.record import VALUE, Record
from tiercache.values import Values

MIB = 2**20
LIMIT = 32 * MIB  # the default max_value_bytes
ZEROS = 8 * LIMIT
FACTOR = 110  # bytes of memory that one byte of a payload may become at most: an empty map is 88, a set's slots 100
STATUS = Path("/proc/self/status")

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="the peak of a process's memory is read from /proc")


def zlib_of_zeros(size: int) -> bytes:
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(bytes(MIB)) for _ in range(size // MIB)) + stream.flush()


def zstd_of_zeros(size: int, claimed: int | None = None, window_log: int = 20) -> bytes:
    """A frame of zeros; `claimed`: what its header says that it holds, 0 for nothing."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=claimed != 0)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=-1 if claimed == 0 else size)
    frame = b"".join(stream.compress(bytes(MIB)) for _ in range(size // MIB)) + stream.flush()
    if not claimed:
        return frame
    # The header: magic, descriptor, window unless the frame is one segment, then the size, 4 bytes from 64 kB on.
    at = 5 if frame[4] & 0x20 else 6
    assert frame[4] >> 6 == 2
    return frame[:at] + struct.pack("<I", claimed) + frame[at + 4 :]


def array(count: int, data: bytes) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + data


def colliding(count: int) -> bytes:
    """Ints that all have one hash, as keys of a map or, tagged, as elements of a set, would be."""
    return b"".join(
        b"\xc7\x0c\x01" + (n * sys.hash_info.modulus).to_bytes(12, "big", signed=True) for n in range(9, count + 9)
    )


ZSTD = zstandard.ZstdCompressor()
# name: (how to make the payload, its compression); none of them is a value.
REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "zlib": (lambda: zlib_of_zeros(ZEROS), 1),
    "zlib in zlib": (lambda: zlib.compress(zlib_of_zeros(ZEROS)), 1),
    "zlib after zlib": (lambda: zlib.compress(b"\xc0") + zlib_of_zeros(ZEROS), 1),
    "many empty zlib streams": (lambda: zlib.compress(b"") * 1_000_000, 1),
    "zstd": (lambda: zstd_of_zeros(ZEROS), 2),
    "zstd that claims little": (lambda: zstd_of_zeros(ZEROS, claimed=MIB), 2),
    "zstd that claims the limit": (lambda: zstd_of_zeros(ZEROS, claimed=LIMIT), 2),
    "zstd that claims too much": (lambda: zstd_of_zeros(MIB, claimed=LIMIT), 2),
    "zstd that claims nothing": (lambda: zstd_of_zeros(ZEROS, claimed=0), 2),
    "zstd in zstd": (lambda: ZSTD.compress(zstd_of_zeros(ZEROS)), 2),
    "zstd after zstd": (lambda: ZSTD.compress(b"\xc0") + zstd_of_zeros(ZEROS), 2),
    "zstd after a skippable frame": (lambda: b"\x50\x2a\x4d\x18" + bytes(4) + zstd_of_zeros(ZEROS), 2),
    "zstd with a huge window": (lambda: zstd_of_zeros(ZEROS, claimed=LIMIT, window_log=30), 2),
    "a huge array": (lambda: b"\xdd\xff\xff\xff\xff", 0),
    "a huge map": (lambda: b"\xdf\xff\xff\xff\xff", 0),
    "a huge string": (lambda: b"\xdb\xff\xff\xff\xff", 0),
    "a huge binary": (lambda: b"\xc6\xff\xff\xff\xff", 0),
    "a huge extension": (lambda: b"\xc9\xff\xff\xff\xff\x01", 0),
    "a huge int": (lambda: b"\xc9\x00\xff\xff\xff\x01", 0),
    "huge arrays in each other": (lambda: array(2**24, b"") * 1000 + bytes(MIB), 0),
    "arrays in each other that claim all there is": (lambda: array(MIB, b"") * 1000 + bytes(MIB), 0),
    "huge maps in each other": (lambda: (b"\xdf\x00\x0f\xff\xff\x01") * 1000 + bytes(MIB), 0),
    "a million arrays in each other": (lambda: b"\x91" * MIB, 0),
    "a million maps in each other": (lambda: b"\x81\x01" * MIB, 0),
    "a million tuples in each other": (lambda: b"\xc1" + b"\x92\xc7\x00\x10" * MIB, 0),
    "a foreign extension": (lambda: array(2, b"\xc0") + b"\xc7\x05\x63" + b"\x91" * 5, 0),
    "a set of one hash": (lambda: b"\xc1" + array(200_001, b"\xc7\x00\x11" + colliding(200_000)), 0),
    "a map of one hash": (lambda: b"\xdf\x00\x01\x86\xa0" + colliding(200_000), 0),
    "zones that are none": (lambda: array(MIB, b"\xc7\x0f\x02\x07\xe8\x01\x01\0\0\0\0\0\0\0\2abc" * MIB), 0),
}  # fmt: skip
# name: (how to make the payload, its compression); each is a value, only an expensive one.
ACCEPTED: dict[str, tuple[Callable[[], bytes], int]] = {
    "ones": (lambda: array(4 * MIB, b"\x01" * 4 * MIB), 0),
    "empty lists": (lambda: array(MIB, b"\x90" * MIB), 0),
    "empty maps": (lambda: array(MIB, b"\x80" * MIB), 0),
    "lists of one list": (lambda: array(MIB, b"\x91\x90" * MIB), 0),
    "maps of one map": (lambda: array(MIB, b"\x81\x01\x80" * MIB), 0),
    "sets that have just grown": (lambda: b"\xc1" + array(MIB // 8, b"\x96\xc7\x00\x11\1\2\3\4\5" * (MIB // 8)), 0),
    "short strings": (lambda: array(MIB, b"\xa2\xc3\xa9" * MIB), 0),
    "timestamps": (lambda: array(MIB, b"\xd6\xff\xff\xff\xff\xff" * MIB), 0),
    "decimals": (lambda: array(MIB // 2, b"\xd4\x060" * (MIB // 2)), 0),
    "one long int": (lambda: b"\xc9" + struct.pack(">I", 4 * MIB) + b"\x01" + b"\x7f" * 4 * MIB, 0),
    "one long decimal": (lambda: b"\xc9" + struct.pack(">I", 4 * MIB) + b"\x06" + b"9" * 4 * MIB, 0),
    "a compressed list": (lambda: zlib.compress(array(4 * MIB, b"\xc0" * 4 * MIB)), 1),
}


def peak(reset: bool = False) -> int:
    """The most memory of this process since the last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def open_all(pipe: Any, bombs: str) -> None:
    """Open each bomb as a record's payload; send what came of it, its size, and what it took."""
    values, policy = Values(MsgpackCodec(), None, 0, LIMIT), Policy()
    for name, (make, compression) in {"refused": REFUSED, "accepted": ACCEPTED}[bombs].items():
        record = Record(VALUE, 1, compression, 60_000, 60_000, 0, b"12345678", make())
        before, began = peak(reset=True), time.process_time()
        size = 0
        try:
            value, size = values.open(record, policy)
            outcome = "value"
            del value
        except CodecError:
            outcome = "CodecError"
        pipe.send((name, outcome, size, peak() - before, time.process_time() - began))
    pipe.send(None)


def measure(bombs: str) -> list[tuple[str, str, int, int, float]]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=open_all, args=(theirs, bombs), daemon=True)
    process.start()
    theirs.close()
    results = []
    try:
        while ours.poll(120):
            if (result := ours.recv()) is None:
                return results
            results.append(result)
        raise AssertionError(f"a bomb after {results[-1:]} took more than two minutes")
    finally:
        process.kill()
        process.join()
        ours.close()


def test_a_bomb_is_refused_within_the_limit(record_property: Callable[[str, object], None]) -> None:
    """Whatever it claims, it takes at most twice `max_value_bytes`, and seconds."""
    results = measure("refused")
    assert [result[0] for result in results] == list(REFUSED)
    for name, outcome, _, taken, seconds in results:
        assert outcome == "CodecError", name
        assert taken < 2 * LIMIT + 16 * MIB, (name, taken)
        assert seconds < 30, (name, seconds)
    record_property("bombs_refused", len(results))
    record_property("bombs_peak_mib", max(result[3] for result in results) // MIB)


def test_what_a_value_takes_is_in_proportion_to_its_bytes(record_property: Callable[[str, object], None]) -> None:
    """`max_value_bytes` bounds encoded bytes: small containers take about 90 times theirs, nothing more than 110."""
    results = measure("accepted")
    assert [result[0] for result in results] == list(ACCEPTED)
    for name, outcome, size, taken, seconds in results:
        assert outcome == "value", name
        assert taken < FACTOR * size, (name, taken / size)
        assert seconds < 60, (name, seconds)
    record_property("bytes_per_payload_byte", round(max(result[3] / result[2] for result in results)))


@pytest.mark.parametrize("count", [100, 5_000], ids=["unchecked", "checked"])
def test_many_extensions_are_the_same_value_checked_or_not(count: int) -> None:
    """Beyond 4,096 extensions keys are checked for their hashes; honest ones are spread well."""
    codec = MsgpackCodec()
    value = [{2**80 + n: Decimal(n) for n in range(count)}, {(n, 2**70) for n in range(count)}, [{}] * 3]
    assert codec.decode(codec.encode(value)) == value
    assert codec.decode(codec.encode(value[0])) == value[0]


def test_what_was_half_decoded_is_given_back() -> None:
    """A payload that breaks off deep in its containers leaves no memory behind (msgpack before 1.2 did)."""
    codec = MsgpackCodec()
    broken = [
        b"\x91" * 50, b"\x91" * 50 + b"\xc1", b"\x81\x01" * 50, b"\x91" * 2000, b"\xc1" + b"\x92\xc7\x00\x10" * 20,
        b"\x91\x91\x82\x01\x02\x90\x01", b"\x91" * 20 + b"\xc7\x01\x63x", msgpack.packb([["é"]])[:-1] + b"\xff",
    ]  # fmt: skip

    def decode(times: int) -> None:
        for data in broken * times:
            with pytest.raises(CodecError):
                codec.decode(data)

    decode(50)
    gc.collect()
    before = sys.getallocatedblocks()
    decode(500)
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
