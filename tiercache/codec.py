"""Values to payloads and back: exact types, no pickle, and bounded memory on hostile bytes.

A payload is one msgpack value. Plain data goes through msgpack's C code alone; other types are written as
extensions.py says. A payload that holds tagged arrays begins with 0xc1, a byte that msgpack never uses: only
then does decoding pay for a call per array.
"""

import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping
from operator import attrgetter
from threading import Lock
from typing import Any, Protocol, TypeVar

from msgpack import Packer, unpackb  # type: ignore[import-untyped]

from tiercache.errors import CodecError
from tiercache.extensions import MANY, OBJECT, TAGS, WRITE, Crowded, Scalars, TaggedArrays, checked_dict, read_scalar
from tiercache.faults import LOOKALIKES, PLAIN, Write, find_fault, holds_lookalike, name_of, register_line, text_of

T = TypeVar("T")

_TAGGED = b"\xc1"


class Codec(Protocol):
    """Turns values into payload bytes and back."""

    id: int
    """One byte in every record's header: a record that another codec wrote counts as undecodable."""

    def encode(self, value: object) -> bytes:
        """The payload of `value`; CodecError names the path in it that can't be encoded."""

    def decode(self, data: bytes) -> object:
        """A value equal to the encoded one, of the same types; CodecError on anything else."""


class MsgpackCodec:
    """The default codec: msgpack with extensions, and the classes registered on this instance."""

    id: int = 1

    def __init__(self) -> None:
        self._lock = Lock()  # held while register changes the two tables
        self._write: dict[type, Write] = dict(WRITE)
        self._restore: dict[str, tuple[type, Callable[[Any], object]]] = {}

    def encode(self, value: object) -> bytes:
        """The payload of `value`; CodecError names the path in it that can't be encoded and the way out."""
        roots = [value]
        tagged = False

        def default(part: object) -> object:
            nonlocal tagged
            write = self._write.get(type(part))
            if write is None:
                raise TypeError(f"no stored form for {type(part)!r}")
            form = write(part)
            if type(form) is list:
                tagged = True
                if form[0] is TAGS[OBJECT]:
                    roots.append(form[2])
            return form

        try:
            # The list around the value keeps its depth within what unpackb reads; its header is cut off.
            packed: bytes = Packer(default=default, strict_types=True, use_bin_type=True).pack([value])
            if holds_lookalike(roots):
                raise TypeError("the packer would take a part of the value for bytes or an extension")
        except Exception as exc:
            reason = text_of(exc)
            reason = "is nested too deep" if "recursion" in reason else f"can't be stored: {reason}"
            raise CodecError(find_fault(value, self._write) or f"$ {reason}") from exc
        return _TAGGED + packed[1:] if tagged else packed[1:]

    def decode(self, data: bytes) -> object:
        """The value; CodecError if `data` is malformed or holds an object that is not registered here."""
        try:
            if len(data) <= MANY and data[:1] != _TAGGED:  # too short for many extensions
                return unpackb(data, ext_hook=read_scalar, strict_map_key=False, timestamp=3)
            try:
                return self._decode(data, checked=False)
            except Crowded:
                return self._decode(data, checked=True)
        except CodecError:
            raise
        except Exception as exc:
            raise CodecError(f"malformed payload: {text_of(exc)}") from exc

    def _decode(self, data: bytes, checked: bool) -> object:
        options: dict[str, Any] = {"strict_map_key": False, "timestamp": 3}
        if checked:
            options["object_pairs_hook"] = checked_dict
        if data[:1] != _TAGGED:
            return unpackb(data, ext_hook=Scalars(checked).read, **options)
        arrays = TaggedArrays(self._build, checked)
        value: object = unpackb(memoryview(data)[1:], ext_hook=arrays.extension, list_hook=arrays.array, **options)
        if arrays.loose:
            raise CodecError("malformed payload: a tag that heads no array")
        return value

    def register(
        self,
        cls: type[T],
        *,
        name: str | None = None,
        to: Callable[[T], object] | None = None,
        from_: Callable[[Any], T] | None = None,
    ) -> type[T]:
        """`cls`, whose instances (not its subclasses') can be stored from now on.

        A dataclass is stored by its init fields, an enum by its member's name (a Flag by its value). Any
        other class needs `to`, which makes something storable of an instance, and `from_`, which makes an
        instance of that. `name` stands for the class in stored values, by default module.qualname. A class
        registered again under another name is written under the last one and read under all.

        TypeError: the class can't be stored like that. ValueError: another class has the name.
        """
        if not isinstance(cls, type) or cls in PLAIN | LOOKALIKES | WRITE.keys():
            raise TypeError(f"register takes a class that has no stored form of its own, not {cls!r}")
        if (to is None) != (from_ is None):
            raise TypeError(f"register({name_of(cls)}): give both to= and from_=, or neither")
        store, restore = (to, from_) if to is not None and from_ is not None else _converters(cls)
        label = name_of(cls) if name is None else name
        label.encode()  # a lone surrogate is a ValueError here, not at the first write
        with self._lock:
            if self._restore.get(label, (cls,))[0] is not cls:
                raise ValueError(f"{label!r} is the registered name of another class; give {cls!r} a name=")
            self._restore[label] = cls, restore
            self._write[cls] = lambda value: [TAGS[OBJECT], label, store(value)]
        return cls

    def _build(self, values: list[Any]) -> object:
        name, state = values
        if type(name) is not str or name not in self._restore:
            raise CodecError(f"no class is registered here under the stored name {str(name)[:100]!r}")
        cls, restore = self._restore[name]
        try:
            value = restore(state)
        except Exception as exc:
            raise CodecError(f"a stored {name} can't be restored: {text_of(exc)}") from exc
        if type(value) is not cls:
            raise CodecError(f"a stored {name} can't be restored: from_ returned a {name_of(type(value))}")
        return value


def _converters(cls: type[Any]) -> tuple[Callable[[Any], object], Callable[[Any], Any]]:
    if issubclass(cls, enum.Flag):
        return attrgetter("value"), cls
    if issubclass(cls, enum.Enum):
        return lambda member: _member_name(cls, member), cls.__members__.__getitem__
    if "__dataclass_fields__" not in vars(cls):
        raise TypeError(f"{name_of(cls)} is neither a dataclass nor an enum: {register_line(cls)}")
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    try:
        inspect.signature(cls).bind(**dict.fromkeys(names))
    except TypeError as exc:
        raise TypeError(f"{name_of(cls)} can't be built of its fields ({exc}): give to= and from_=") from None

    def restore(state: Mapping[str, object]) -> object:
        if unknown := state.keys() - set(names):
            raise ValueError(f"it has no fields {unknown!r:.200}")
        return cls(**state)

    return lambda value: {name: getattr(value, name) for name in names}, restore


def _member_name(cls: type[enum.Enum], member: enum.Enum) -> str:
    if cls.__members__.get(member.name) is not member:
        raise ValueError(f"{member!r} is no declared member")
    return member.name
