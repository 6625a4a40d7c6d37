"""What in a value can't be stored, where it is, and what to do about it.

The packer takes a few foreign types for bytes or extensions without asking. `holds_lookalike` finds them
level by level with gc.get_referents, which lists the contents of many containers in one C call.
"""

import dataclasses
import enum
import gc
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from msgpack import ExtType, Timestamp  # type: ignore[import-untyped]

PLAIN = {type(None), bool, float, str, bytes, list, dict}
LOOKALIKES = {bytearray, memoryview, ExtType, Timestamp}
_NESTED = {list, dict, tuple, set, frozenset}
_DEPTH = 1024
_REPR = reprlib.Repr()
_REPR.maxstring = 80

Write = Callable[[Any], Any]


def holds_lookalike(level: list[object]) -> bool:
    """Whether these values hold, at any depth, what the packer mistakes for something else."""
    while True:
        types = set(map(type, level))
        if not types.isdisjoint(LOOKALIKES):
            return True
        if types.isdisjoint(_NESTED):
            return False
        level = gc.get_referents(*[part for part in level if type(part) in _NESTED])


Part = tuple[str, object, object]
"""A step of a path, as a format and its argument, and the value that the step leads to."""


def find_fault(value: object, write: Mapping[type, Write]) -> str | None:
    """The path to the first part that can't be stored, and why; None if there is none that can be named."""
    path: list[str] = []
    around: dict[int, object] = {}
    top: list[Part] = [("$", None, value)]
    walk = [iter(top)]
    while walk:
        for form, key, part in walk[-1]:
            fault, parts = _look(part, write)
            if id(part) in around:
                fault = "refers back to a container that it is in"
            if fault:
                where = "".join(path) + _step(form, key)
                return f"{where if len(where) < 300 else where[:150] + '...' + where[-140:]} {fault}"
            if parts:
                if len(path) == _DEPTH:
                    return None
                path.append(_step(form, key))
                around[id(part)] = part
                walk.append(iter(parts))
                break
        else:
            walk.pop()
            if path:
                path.pop()
                around.popitem()
    return None


def _look(part: Any, write: Mapping[type, Write]) -> tuple[str | None, list[Part]]:
    kind = type(part)
    if kind in LOOKALIKES:
        return f"is a {name_of(kind)}, which has no stored form: make it bytes", []
    if kind not in PLAIN and kind not in write:
        return f"is a {name_of(kind)}, which has no stored form: add {register_line(kind)}", []
    try:
        form = part.encode() if kind is str else write[kind](part) if kind in write else part
    except Exception as exc:
        return f"is a {name_of(kind)} that can't be stored: {text_of(exc)}", []
    if kind is dict:
        pairs = list(part.items())
        return None, [step for k, v in pairs for step in ((".key({})", k, k), ("[{}]", k, v))]
    if kind in (list, tuple):
        return None, [("[{}]", index, item) for index, item in enumerate(part)]
    if kind in (set, frozenset):
        return None, [("{{{}}}", item, item) for item in part]
    if type(form) is not list:
        return None, []
    if dataclasses.is_dataclass(kind) and type(form[2]) is dict:
        return None, [(f".{field}", None, item) for field, item in form[2].items()]
    return None, [(".to()", None, form[2])]


def _step(form: str, key: object) -> str:
    try:
        return form.format(_REPR.repr(key))
    except Exception:
        return form.format(name_of(type(key)))


def register_line(cls: type) -> str:
    """What to add to the program so that instances of `cls` can be stored."""
    by_itself = issubclass(cls, enum.Enum) or "__dataclass_fields__" in vars(cls)
    return f"cache.register({name_of(cls)}{'' if by_itself else ', to=..., from_=...'})"


def name_of(cls: type) -> str:
    """The qualified name of a class, with its module unless that is builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def text_of(exc: Exception) -> str:
    """An exception in one line, whatever its own str does."""
    try:
        return f"{type(exc).__name__}: {exc}"[:300]
    except Exception:
        return type(exc).__name__
