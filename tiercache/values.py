"""Values to records and back: kinds, negative answers, compression, sizes and signatures."""

from typing import Any

from tiercache.codec import Codec
from tiercache.compression import compress, decompress
from tiercache.errors import CodecError
from tiercache.local.record import ERROR, JOB, NONE, VALUE, Record, milliseconds, unpack
from tiercache.local.table import Raises
from tiercache.policy import Policy
from tiercache.signing import Signer, bare_record

LARGEST_JOB = 65_536  # bytes
SILENCE = 60.0  # seconds between two complaints about records: somebody may plant them by the thousand
_PLAIN = (str, int, float, bytes, bool, type(None))


class Values:
    """Packs what a loader gave and opens what Redis holds, within `max_bytes` decoded."""

    def __init__(
        self, codec: Codec, compression: str | None, above: int, max_bytes: int, signer: Signer | None = None
    ) -> None:
        self.codec = codec
        self.max_bytes = max_bytes
        self.signed = signer is not None
        """Is every value that is read the work of somebody who has a key?"""
        self._signer = signer
        self._compression = compression
        self._above = above
        self._complained = -SILENCE

    def pack(self, key: str, value: Any, *, id: bytes, fresh: float, hard: float, delta: float) -> tuple[Record, int]:
        """The record of a value and the size of its payload; CodecError names the key and the path."""
        kind, payload = VALUE, b""
        try:
            if isinstance(value, Raises):
                kind, payload = ERROR, self._pack_error(value.error)
            else:
                payload = self.codec.encode(value)
        except CodecError as error:
            raise CodecError(f"the value of {key!r} can't be encoded: {error}") from error.__cause__
        if len(payload) > self.max_bytes:
            raise CodecError(
                f"the value of {key!r} is {len(payload):,} bytes encoded; max_value_bytes is {self.max_bytes:,}"
            )
        if value is None:
            kind = NONE
        small, compression = compress(payload, self._compression, self._above)
        record = Record(
            kind=kind,
            codec=self.codec.id,
            compression=compression,
            fresh_ms=milliseconds(fresh),
            hard_ms=milliseconds(hard),
            delta_ms=min(milliseconds(delta), 2**32 - 1),
            id=id,
            payload=small,
        )
        return record if self._signer is None else self._signer.sign(key, record), len(payload)

    def verify(self, key: str, record: Record) -> None:
        """CodecError for a record that this cache may not believe; without keys it believes all."""
        if self._signer is not None:
            self._signer.check(key, record)

    def open(self, record: Record, policy: Policy) -> tuple[Any, int]:
        """The value of a verified record (`Raises` for a negative error) and its decoded size; else CodecError."""
        usual = record.plain(self.codec.id, self.max_bytes)
        if usual is not None:
            return self.codec.decode(usual), len(usual)
        if record.kind == NONE:
            return None, 0
        if record.codec != self.codec.id:
            raise CodecError(f"codec {record.codec} is not this cache's ({self.codec.id})")
        payload = bare_record(record).payload if record.signed else record.payload
        if record.compression:
            payload = decompress(payload, record.compression, self.max_bytes)
        if len(payload) > self.max_bytes:
            raise CodecError(f"{len(payload):,} bytes decoded; max_value_bytes is {self.max_bytes:,}")
        value = self.codec.decode(payload)
        if record.kind == VALUE:
            return value, len(payload)
        if record.kind == ERROR:
            return Raises(_open_error(value, policy.negative_errors)), len(payload)
        raise CodecError(f"kind {record.kind} is not known to this version")

    def pack_job(self, key: str, job: list[Any], *, id: bytes, use: float, delta: float) -> Record:
        """What a worker is to do within `use` seconds, as a record of a kind of its own; else CodecError."""
        payload = self.codec.encode(job)
        if len(payload) > LARGEST_JOB:
            raise CodecError(f"its arguments are {len(payload):,} bytes encoded; {LARGEST_JOB:,} can be sent")
        record = Record(JOB, self.codec.id, 0, 0, milliseconds(use), min(milliseconds(delta), 2**32 - 1), id, payload)
        return record if self._signer is None else self._signer.sign(key, record)

    def open_job(self, key: str, data: bytes) -> tuple[Record, Any]:
        """A job's record and content; CodecError if it is none, or nobody's whom this cache believes."""
        record = unpack(data) if len(data) <= 2 * LARGEST_JOB else None
        if record is None or record.kind != JOB or record.compression:
            raise CodecError("malformed job")
        self.verify(key, record)
        if record.codec != self.codec.id:
            raise CodecError(f"codec {record.codec} is not this cache's ({self.codec.id})")
        return record, self.codec.decode(bare_record(record).payload)

    def may_complain(self, now: float) -> bool:
        """May a record that can't be read be logged? Once a minute; the counter tells them all."""
        if now - self._complained < SILENCE:
            return False
        self._complained = now
        return True

    def _pack_error(self, error: BaseException) -> bytes:
        names = [_name(each) for each in type(error).__mro__ if issubclass(each, Exception)]
        return self.codec.encode([names, [self._argument(arg) for arg in error.args]])

    def _argument(self, value: Any) -> Any:
        try:
            self.codec.encode(value)
        except CodecError:
            return str(value)
        return value


def _open_error(data: Any, classes: tuple[type[Exception], ...]) -> Exception:
    # Looked up by name among the reader's own classes and their subclasses: nothing is imported.
    try:
        names, args = data
        for name in names:
            for each in classes:
                found = _find(each, name)
                if found is not None:
                    return found(*args)
    except Exception as error:
        raise CodecError(f"a negative answer can't be raised here: {type(error).__name__}") from None
    raise CodecError(f"negative_errors has none of {names!r}")


def _find(cls: type[Exception], name: str) -> type[Exception] | None:
    if _name(cls) == name:
        return cls
    for each in cls.__subclasses__():
        if (found := _find(each, name)) is not None:
            return found
    return None


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def estimate(value: Any, depth: int = 4) -> int:
    """Bytes that a value takes in memory, roughly: containers are sampled, foreign objects are shallow."""
    size: int = value.__sizeof__()
    if depth == 0 or isinstance(value, _PLAIN):
        return size
    if isinstance(value, dict):
        items: Any = [part for pair in list(value.items())[:64] for part in pair]
        total = 2 * len(value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = list(value)[:64]
        total = len(value)
    else:
        items = list(getattr(value, "__dict__", {}).values())[:64]
        total = len(items)
    if not items:
        return size
    return size + sum(estimate(item, depth - 1) for item in items) * total // len(items)
