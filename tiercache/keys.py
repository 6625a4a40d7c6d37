"""Call arguments and templates -> key, the same in every process, hash seed and Python version.

template   the literal text and, percent-encoded, the text of each field (see `_template`)
callable   what `key=` returns, checked
automatic  module.qualname(ARG,...): for each parameter in order VALUE, `name=VALUE` if it is keyword-only,
           `*(VALUE,...)` or `**dict(...)` if it collects. A VALUE is None True 42 1.5 'it\\'s' b'x' or
           TYPE(VALUE,...): (1,2) list(1,2) set(1,2) dict(('k',1)) Decimal('1.5') date('2024-01-31')
           datetime('2024-01-31T12:00:00',ZONE,FOLD) class('m.C') m.Enum('NAME') m.C(its __cache_key__())

A version is appended as `%v` and its percent-encoded text. No encoded text has `%v` in it, so two versions of
a function never meet, nor does a template or automatic key with a version meet one without.
"""

import enum
import inspect
import re
import string
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import quote
from uuid import UUID
from zoneinfo import ZoneInfo

_Parameters = Mapping[str, inspect.Parameter]
_Values = tuple[Any, ...]
_Write = Callable[[_Values], str]
_DEEPEST = 100
_NAME_ESCAPES = {ord(c): f"%{ord(c):02X}" for c in "%(),'"}
_STR_ESCAPES = {ord("\\"): "\\\\", ord("'"): "\\'"}
_FIELD = re.compile(r"([^.\[\]]+)((?:\.[^.\[\]]+|\[[^\]]+\])*)")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_FORMATTER = string.Formatter()
_CONVERSIONS: dict[str | None, Callable[[object], str]] = {"s": str, "r": repr, "a": ascii}
_SHIFTING_REPRS = (object.__repr__, set.__repr__, frozenset.__repr__)
_PREFIX = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**", "KEYWORD_ONLY": "{}="}


def check_key(key: object) -> str:
    """The key as an exact str: any text that is not empty and can be encoded as UTF-8.

    Raises TypeError for anything but a str, ValueError for empty text or a lone surrogate.
    """
    if not isinstance(key, str):
        hint = ": decode it first" if isinstance(key, (bytes, bytearray, memoryview)) else ""
        raise TypeError(f"a cache key must be a str, not {type(key).__name__}{hint}")
    text = key if type(key) is str else str.__str__(key)
    if not text:
        raise ValueError("a cache key must not be empty")
    if not text.isascii() and (lone := _SURROGATE.search(text)):
        raise ValueError(f"cache key {text[:60]!a} has a lone surrogate at {lone.start()}")
    return text


class _Unusable(Exception):
    """An argument can't be in a key; the text says why."""


def _refuse(value: object) -> NoReturn:
    raise _Unusable(f"holds a {type(value).__module__}.{type(value).__qualname__}, which has no stable form")


def _name(named: Any) -> str:
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}".translate(_NAME_ESCAPES)


_ATOMS: dict[type, Callable[[Any], str]] = {
    **dict.fromkeys((type(None), bool, float, bytes), repr),
    # Python refuses to write decimals of more digits than a limit that each process sets for itself
    int: lambda value: str(value) if value.bit_length() <= 1024 else hex(value),
    # repr() would escape what the interpreter's own Unicode tables call unprintable
    str: lambda value: f"'{value.translate(_STR_ESCAPES)}'",
}
_PARTS: dict[type, Callable[[Any], Iterable[object]]] = {
    **dict.fromkeys((tuple, list, set, frozenset), iter),
    dict: lambda value: value.items(),
    # the case of the exponent's E is a setting of the thread's decimal context
    Decimal: lambda value: (str(value).upper(),),
    UUID: lambda value: (str(value),),
    date: lambda value: (value.isoformat(),),
    time: lambda value: (value.replace(tzinfo=None).isoformat(), value.tzinfo, value.fold),
    datetime: lambda value: (value.replace(tzinfo=None).isoformat(), value.tzinfo, value.fold),
    timedelta: lambda value: (value.days, value.seconds, value.microseconds),
    timezone: lambda value: (value.utcoffset(None), value.tzname(None)),
    ZoneInfo: lambda value: (value.key or _refuse(value),),
}


def _encode(value: Any, depth: int = 0) -> str:
    cls: Any = type(value)
    if depth > _DEEPEST:
        raise _Unusable(f"is nested more than {_DEEPEST} levels deep, or contains itself")
    if atom := _ATOMS.get(cls):
        return atom(value)
    if parts := _PARTS.get(cls):
        texts = [_encode(part, depth + 1) for part in parts(value)]
        in_order = sorted(texts) if cls in (set, frozenset, dict) else texts
        return f"{'' if cls is tuple else cls.__name__}({','.join(in_order)})"
    if issubclass(cls, type):
        return f"class('{_name(value)}')"
    if getattr(cls, "__cache_key__", None) is not None:
        stands_for = value.__cache_key__()
    elif issubclass(cls, enum.Enum):
        # Python versions name a combination of flags differently; its number stays
        stands_for = value._name_ if value._name_ in cls.__members__ else (value._value_,)
    else:
        _refuse(value)
    return f"{_name(cls)}({_encode(stands_for, depth + 1)})"


def _automatic(name: str, parameters: _Parameters, ignored: Collection[str]) -> _Write:
    prefixes = [_PREFIX.get(p.kind.name, "").format(p.name) for p in parameters.values()]
    kept = [(at, each, prefixes[at]) for at, each in enumerate(parameters) if each not in ignored]

    def write(values: _Values) -> str:
        texts = []
        for at, parameter, prefix in kept:
            try:
                texts.append(prefix + _encode(values[at]))
            except _Unusable as error:
                ways_out = f"use a template, key=, ignore=({parameter!r},) or a method __cache_key__"
                raise _Unusable(f"argument {parameter!r} {error}: {ways_out}") from None
        return f"{name}({','.join(texts)})"

    return write


def _field(field: str, spec: str, conversion: str | None, usable: Mapping[str, tuple[int, str]]) -> _Write:
    match = _FIELD.fullmatch(field)
    if match is None or match[1] not in usable:
        raise ValueError(f"field {{{field}}} is not a parameter, or an ignored one")
    root, path = match.groups()
    at, kind = usable[root]
    if kind in ("VAR_POSITIONAL", "VAR_KEYWORD") and not (path or conversion):
        raise ValueError(f"{root} collects arguments: write {{{root}[...]}} or {{{root}!r}}")
    if conversion not in {None, *_CONVERSIONS} or "{" in spec:
        raise ValueError(f"field {{{field}}} has an unknown conversion, or a field in its format spec")
    convert = _CONVERSIONS.get(conversion)

    def write(values: _Values) -> str:
        value = _FORMATTER.get_field(field, (), {root: values[at]})[0] if path else values[at]
        cls: Any = type(value)
        if cls is not str and cls is not int:
            hint = "" if convert or spec else f"write {{{field}!s}} or give a format spec"
            shifts = cls.__repr__ in _SHIFTING_REPRS and cls.__str__ is object.__str__
            if shifts and (convert or not spec):
                hint = "its text is not the same in every process; take an attribute of it, or key="
            if hint:
                raise _Unusable(f"argument {field!r} is a {cls.__module__}.{cls.__qualname__}: {hint}")
        return str.__str__(format(convert(value) if convert else value, spec))

    return write


def _template(template: str, parameters: _Parameters, ignored: Collection[str]) -> _Write:
    """The literal text with the fields' texts between; no two lists of texts give the same key.

    Percent-encoded in a field (UTF-8, %XX) are `%` and every punctuation character of the literal text: any
    but the ASCII letters and digits. Where the text between two fields has no punctuation, or only `%`, its
    letters are encoded too, save A-F, which %XX has itself. Splitting there gives the fields back.
    """
    usable = {n: (at, p.kind.name) for at, (n, p) in enumerate(parameters.items()) if n not in ignored}
    literals, fields = [""], list[_Write]()
    for literal, field, spec, conversion in _FORMATTER.parse(check_key(template)):
        literals[-1] += literal
        if field is not None:
            fields.append(_field(field, spec or "", conversion, usable))
            literals.append("")
    encoded = set("".join(literals)) - set(string.ascii_letters + string.digits + "%")
    for between in literals[1:-1]:
        if encoded.isdisjoint(between):
            encoded |= set(between) - set("%ABCDEF" + string.digits)
        if encoded.isdisjoint(between):
            raise ValueError("two fields would run together: put punctuation between them")
    escapes = {ord(c): "".join([f"%{byte:02X}" for byte in c.encode()]) for c in encoded | {"%"}}
    first, *rest = literals
    parts = list(zip(fields, rest, strict=True))
    return lambda values: first + "".join([write(values).translate(escapes) + end for write, end in parts])


class KeyMaker:
    """The key of each call of one function: `maker(args, kwargs)`.

    `skip_first` ignores the first parameter, whatever its name. Where no key can be made, ValueError names
    the function, its parameters and the template. A call raises TypeError for arguments that the function
    would refuse or that can't be in a key, and ValueError as `check_key` does.
    """

    def __init__(
        self,
        func: Callable[..., object],
        template: str | None = None,
        *,
        key: Callable[..., object] | None = None,
        ignore: Collection[str] = (),
        version: str = "",
        skip_first: bool = False,
    ) -> None:
        if isinstance(ignore, str) or not isinstance(version, str):
            raise TypeError("ignore= must be a collection of parameter names, version= a str")
        self.name = _name(func) if hasattr(func, "__qualname__") else repr(func)
        self.label = self.name if template is None else f"{self.name} as {template}"
        self.form = "callable" if key is not None else "automatic" if template is None else "template"
        self.signature = inspect.signature(func)
        parameters = self.signature.parameters
        ignored = {*ignore, *list(parameters)[:skip_first]}
        self._key = key
        self._suffix = f"%v{quote(version, safe='')}" if version else ""
        self.label += self._suffix
        self._takes_first = self.form == "automatic" and not ignored.issuperset(list(parameters)[:1])
        self._all_positional = len(parameters) if all(p.kind <= 1 for p in parameters.values()) else -1
        try:
            if not ignored.issubset(parameters) or (key is not None and (ignore or template is not None)):
                raise ValueError(f"ignore={ignore!r} must name parameters, and key= stand alone")
            nameless = getattr(func, "__name__", "<lambda>") == "<lambda>" or inspect.ismethod(func)
            if self.form == "automatic" and nameless:
                raise ValueError("a lambda, partial or bound method needs a template or key=")
            automatic = _automatic(self.name, parameters, ignored)
            self._write = automatic if template is None else _template(template, parameters, ignored)
        except ValueError as error:
            raise ValueError(f"{self.name}({', '.join(parameters)}), template {template!r}: {error}") from None

    def needs_cache_key(self, owner: type) -> bool:
        """Whether `owner`'s instances would be refused as first argument, for want of a `__cache_key__`."""
        stable = issubclass(owner, (type, enum.Enum)) or getattr(owner, "__cache_key__", None) is not None
        return self._takes_first and not stable

    def _values(self, args: _Values, kwargs: Mapping[str, Any]) -> _Values:
        if not kwargs and len(args) == self._all_positional:
            return args
        try:
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            # some 3.12 and 3.13 bind f(x=1) to f(x, /, **more) without an x (python/cpython#130164)
            return tuple([bound.arguments[name] for name in self.signature.parameters])
        except (TypeError, KeyError) as error:
            raise TypeError(f"{self.name}() {error}") from None

    def __call__(self, args: _Values, kwargs: Mapping[str, Any]) -> str:
        values = self._values(args, kwargs)
        try:
            text = self._write(values) if self._key is None else check_key(self._key(*args, **kwargs))
        except _Unusable as error:
            raise TypeError(f"{self.name}(): {error}") from None
        return check_key(text + self._suffix)
