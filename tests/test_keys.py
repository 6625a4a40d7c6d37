"""Keys: what may be one, and how templates, `key=` and typed arguments become one."""

import ast
import enum
import functools
import inspect
import io
import itertools
import os
import re
import string
import struct
import subprocess
import sys
from collections import Counter, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.keys import KeyMaker, check_key
from tiercache.local.packing import is_plain
from tiercache.remote.commands import wire_key

ROOT = Path(__file__).parent.parent
HOSTILE = [
    "",
    "%",
    "%25",
    "%v2",
    "a-b",
    "a:b",
    "{a}",
    "}{",
    "'",
    "\\",
    "\0",
    "\n",
    "é",
    "日本",
    "🫨",
    "x" * 10_000,
]


class Color(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    READ = "r"


class Perm(enum.Flag, boundary=enum.KEEP):
    R = 1
    W = 2


class Tenant:
    def __init__(self, stands_for: object) -> None:
        self.stands_for = stands_for

    def __cache_key__(self) -> object:
        return self.stands_for


class Plain:
    id = 7


class NumberedInt(int):
    pass


class Label(str):
    __slots__ = ()


class HostileStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError("user code ran")

    __repr__ = __hash__ = __eq__ = __len__ = __bool__ = __format__ = __str__  # type: ignore[assignment]


Point = namedtuple("Point", "x y")


def one(x: Any) -> None: ...


def two(a: Any, b: Any) -> None: ...


def every(a: Any, /, b: Any, c: Any = 3, *rest: Any, d: Any, e: Any = "e", **more: Any) -> None: ...


def template_key(template: str, *args: object, func: Callable[..., object] = two, version: str = "") -> str:
    return KeyMaker(func, template, key=None, ignore=(), version=version)(args, {})


def automatic(func: Callable[..., object], ignore: tuple[str, ...] = (), version: str = "") -> Callable[..., str]:
    maker = KeyMaker(func, None, key=None, ignore=ignore, version=version)
    return lambda *args, **kwargs: maker(args, kwargs)


def value_text(value: object) -> str:
    key = automatic(one)(value)
    prefix = f"{__name__}.one("
    assert key.startswith(prefix)
    assert key.endswith(")")
    return key[len(prefix) : -1]


# --- what may be a key


@pytest.mark.parametrize("key", [text for text in HOSTILE if text] + ["{}", "x" * 1_000_000, "\ufffe"])
def test_any_text_is_a_key(key: str) -> None:
    """A key may hold braces, newlines, NULs, any Unicode, and be of any length."""
    assert check_key(key) is key


@pytest.mark.parametrize("key", [None, 1, b"k", bytearray(b"k"), ["k"], object()])
def test_a_key_of_another_type_is_a_type_error(key: object) -> None:
    """What is not a str is refused, naming its type."""
    with pytest.raises(TypeError, match=f"must be a str, not {type(key).__name__}"):
        check_key(key)


@given(st.text(max_size=60) | st.sampled_from(["k" * 50, "k" * 51, "#k", "\x00", "\x7f", "\x80"]))
def test_a_plain_key_is_its_own_wire_key(key: str) -> None:
    """Short ASCII is known at a glance; the rest takes the rules that say the same."""
    assert is_plain(key) == (0 < len(key) <= 50 and key.isascii() and key[0] != "#")
    if is_plain(key):
        assert wire_key(check_key(key)) is key


def test_what_needs_a_second_look_is_not_plain() -> None:
    """It may be a key all the same."""
    keys: list[object] = [None, b"k", 1, HostileStr("k"), "\ud800"]
    assert not any(map(is_plain, keys))


def test_bytes_are_told_to_be_decoded() -> None:
    """Bytes get the hint that fits them, others do not."""
    with pytest.raises(TypeError, match="decode it first"):
        check_key(b"k")
    with pytest.raises(TypeError, match=r"not int$"):
        check_key(1)


def test_an_empty_key_is_a_value_error() -> None:
    """Empty text is refused, whatever its class says of itself."""
    for key in ("", HostileStr("")):
        with pytest.raises(ValueError, match="empty"):
            check_key(key)


@pytest.mark.parametrize("key", ["\ud800", "ab\udfff", "é" * 100 + "\udc80" + "é"])
def test_a_lone_surrogate_is_a_value_error(key: str) -> None:
    """Text that UTF-8 has no bytes for is refused, naming the place, in a message that can be printed."""
    place = next(at for at, char in enumerate(key) if "\ud800" <= char <= "\udfff")
    with pytest.raises(ValueError, match=f"surrogate at {place}$") as caught:
        check_key(key)
    assert str(caught.value).isascii()


def test_a_str_subclass_becomes_an_exact_str_without_running_its_code() -> None:
    """No __eq__, __hash__, __str__ or __len__ of the user's runs on a key."""
    key = check_key(HostileStr("item:1"))
    assert type(key) is str
    assert key == "item:1"


@given(st.text(st.characters(codec=None, categories=None), max_size=20))
def test_a_key_is_usable_exactly_when_it_has_utf8_bytes(text: str) -> None:
    """The check agrees with the encoder on every text."""
    try:
        usable = bool(text.encode())
    except UnicodeEncodeError:
        usable = False
    if usable:
        assert check_key(text) == text
    else:
        with pytest.raises(ValueError, match=r"empty|surrogate"):
            check_key(text)


# --- templates


@pytest.mark.parametrize(
    ("template", "args", "key"),
    [
        ("item:{a}", (42, 0), "item:42"),
        ("item:{a}", ("42", 0), "item:42"),
        ("item:{a}", ("", 0), "item:"),
        ("item:{a}", (10**100, 0), "item:1" + "0" * 100),
        ("{a}", ("a b:c", 0), "a b:c"),
        ("{b}:{a}", (1, 2), "2:1"),
        ("{a}:{a}", ("x", 0), "x:x"),
        ("all items", (1, 2), "all items"),
        ("item:{a}", ("x:y%z-w", 0), "item:x%3Ay%25z-w"),
        ("item-{a}", (-1, 0), "item-%2D1"),
        ("my_item:{a}", ("a_b@c", 0), "my_item:a%5Fb@c"),
        ("{{{a}}}", ("{x}", 0), "{%7Bx%7D}"),
        ("prix€{a}", ("5€", 0), "prix€5%E2%82%AC"),
        ("é{a}", ("éè", 0), "é%C3%A9è"),
        ("a\0{a}\n", ("\0\n", 0), "a\0%00%0A\n"),
        ("img:{a}x{b}", (640, "4x8"), "img:640x4%788"),
    ],
)
def test_a_template_writes_exact_ints_and_strs(template: str, args: tuple[object, ...], key: str) -> None:
    """Ints are decimal; in a str `%` and the template's own punctuation are percent-encoded."""
    assert template_key(template, *args) == key


@pytest.mark.parametrize("value", HOSTILE)
def test_a_field_can_be_decoded_whatever_it_holds(value: str) -> None:
    """The text of a field comes back from the key by percent-decoding."""
    assert unquote(template_key("<{{%{a}-'\\é\n>", value, 0)[3:-6], errors="strict") == value


@pytest.mark.parametrize(
    "template",
    [
        "{a}-{b}",
        "{a}--{b}-",
        "{a}x{b}",
        "{a}by{b}",
        "{a}%-{b}",
        "{a}-1-1{b}",
        "u{a}:{b}%",
        "{a}%v{b}",
        "{a}é{b}%v2",
    ],
)
def test_fields_never_run_together(template: str) -> None:
    """Over all short hostile values and versions, keys meet only where the fields' texts and versions do."""
    literals = [literal for literal, *_ in string.Formatter().parse(template)]
    alphabet = sorted({*"%2D", *"".join(literals)})
    texts = ["".join(chars) for size in range(3) for chars in itertools.product(alphabet, repeat=size)]
    values: list[str | int] = [*texts, *range(-12, 13)]
    seen: dict[str, tuple[str, str, str]] = {}
    for version in ("", "2", "-", "%v2", "x"):
        maker = KeyMaker(two, template, key=None, ignore=(), version=version)
        for a, b in itertools.product(values, repeat=2):
            call = (str(a), str(b), version)
            assert seen.setdefault(maker((a, b), {}), call) == call


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), min_size=3, max_size=3), st.text("ab-:/%é~"))
def test_the_fields_of_any_text_come_back(values: list[str], literal: str) -> None:
    """Splitting at the literal text and percent-decoding gives back what was put in."""

    def func(a: str, b: str, c: str) -> None: ...

    template = f"{literal}{{a}}:{literal}{{b}}/{{c}}{literal}"
    key = template_key(template, *values, func=func)
    held_back = "".join(re.escape(c) for c in set(template) - set(string.ascii_letters + string.digits + "{}%"))
    field = f"([^{held_back}]*)"
    pattern = re.sub(r"\\\{.\\\}", lambda _: field, re.escape(template))
    match = re.fullmatch(pattern, key)
    assert match is not None
    assert [unquote(text, errors="strict") for text in match.groups()] == values


@pytest.mark.parametrize(
    "template",
    [
        "x:{c}",
        "x:{}",
        "x:{0}",
        "x:{ a }",
        "x:{a.}",
        "x:{a[}",
        "x:{a]}",
        "x:{c.id}",
        "x:{",
        "x:}",
        "x:{a",
        "x:{a!q}",
        "x:{a!}",
        "x:{a:{b}}",
        "{a}{b}",
        "{a!s}{b!s}",
        "{a}%{b}",
        "{a}12{b}",
        "{a}%AF{b}",
        "",
        "\ud800{a}",
    ],
)
def test_a_template_that_cannot_work_is_refused_at_decoration(template: str) -> None:
    """Unknown or positional names, broken syntax, and fields that would run together are ValueErrors."""
    with pytest.raises(ValueError, match=re.escape(f"{__name__}.two(a, b), template {template!r}: ")):
        KeyMaker(two, template, key=None, ignore=(), version="")


def test_a_template_may_name_every_kind_of_parameter() -> None:
    """Positional-only, keyword-only and defaulted parameters are names; collecting ones take an index."""
    maker = KeyMaker(every, "{a}:{b}:{c}:{rest[0]}:{d}:{e}:{more[x]}", key=None, ignore=(), version="")
    assert maker((1, 2, 3, 4), {"x": 6, "d": 5}) == "1:2:3:4:5:e:6"
    assert KeyMaker(every, "{rest!r}", key=None, ignore=(), version="")((1, 2, 3, 4), {"d": 0}) == "(4,)"


@pytest.mark.parametrize("name", ["rest", "more"])
def test_a_bare_collecting_parameter_in_a_template_is_refused(name: str) -> None:
    """`*args` and `**kwargs` as a whole are no text; the message says what to write."""
    with pytest.raises(ValueError, match=rf"{name} collects arguments: write \{{{name}\[...\]\}} or \{{{name}!r\}}"):
        KeyMaker(every, f"x:{{{name}}}", key=None, ignore=(), version="")


def test_a_template_reaches_attributes_and_items() -> None:
    """`{user.id}` and `{d[k]}` read from the argument, and `self` is a name like others."""

    def get(self: Plain, d: dict[str, list[int]]) -> None: ...

    assert template_key("{self.id}:{d[k][0]}", Plain(), {"k": [9]}, func=get) == "7:9"


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("{x!s}", True, "k:True"),
        ("{x!r}", "a:b", "k:'a%3Ab'"),
        ("{x!a}", "é", "k:'\\xe9'"),
        ("{x!s:>6}", None, "k:  None"),
        ("{x:.2f}", 3.14159, "k:3.14"),
        ("{x:.2f}", 3, "k:3.00"),
        ("{x:%H:%M}", time(12, 30), "k:12%3A30"),
        ("{x!s}", Decimal("1.50"), "k:1.50"),
        ("{x!s}", NumberedInt(5), "k:5"),
        ("{x!s}", UUID(int=1), "k:00000000-0000-0000-0000-000000000001"),
        ("{x.name}", Color.RED, "k:RED"),
    ],
)
def test_a_conversion_or_format_spec_admits_any_type(field: str, value: object, key: str) -> None:
    """Converted text is percent-encoded like any other."""
    assert template_key(f"k:{field}", value, func=one) == key


@pytest.mark.parametrize(
    "value",
    [True, 1.0, None, Decimal(1), NumberedInt(1), Label("x"), Level.LOW, Mode.READ, b"x", (1,), Plain],
)
def test_another_type_without_a_conversion_is_a_type_error(value: object) -> None:
    """The message names the function, the argument, its type and the way out."""
    type_name = f"{type(value).__module__}.{type(value).__qualname__}"
    expected = rf"{__name__}\.one\(\): argument 'x' is a {re.escape(type_name)}: write {{x!s}} or give a format spec"
    with pytest.raises(TypeError, match=expected):
        template_key("k:{x}", value, func=one)


def test_an_item_of_another_type_is_named_by_its_whole_path() -> None:
    """`{x[0]}` is what the message names, not only `x`."""
    with pytest.raises(TypeError, match=r"argument 'x\[0\]' is a builtins.float: write {x\[0\]!s}"):
        template_key("k:{x[0]}", [1.5], func=one)


@pytest.mark.parametrize("field", ["{x}", "{x!s}", "{x!r}", "{x!s:>9}"])
@pytest.mark.parametrize("value", [object(), Plain(), {"a", "b"}, frozenset("ab")])
def test_text_that_differs_between_processes_is_refused(field: str, value: object) -> None:
    """A repr with an address in it, or in the order of hashes, would give each process its own key."""
    with pytest.raises(TypeError, match=r"argument 'x' .* its text is not the same in every process"):
        template_key(f"k:{field}", value, func=one)


def test_a_class_with_a_format_of_its_own_is_usable() -> None:
    """`__format__` is text enough, even where the repr is an address."""

    class Money:
        def __format__(self, spec: str) -> str:
            return f"5 {spec}"

    assert template_key("k:{x:EUR}", Money(), func=one) == "k:5 EUR"


def test_a_format_that_returns_a_str_subclass_gives_an_exact_str() -> None:
    """What user code returns as text is copied out of its class."""

    class Odd:
        def __str__(self) -> str:
            return Label("odd")

    key = template_key("{x!s}", Odd(), func=one)
    assert type(key) is str
    assert key == "odd"


def test_a_template_without_literal_text_refuses_an_empty_value() -> None:
    """`{x}` alone may be a template; the empty key it would give for "" is a ValueError at the call."""
    assert template_key("{x}", "a", func=one) == "a"
    with pytest.raises(ValueError, match="empty"):
        template_key("{x}", "", func=one)


def test_a_lone_surrogate_in_an_argument_is_a_value_error() -> None:
    """No form lets a key through that Redis could not be sent."""
    with pytest.raises(ValueError, match="surrogate"):
        template_key("k:{x}", "\ud800", func=one)
    with pytest.raises(ValueError, match="surrogate"):
        automatic(one)("\ud800")


def test_an_ignored_parameter_is_no_field() -> None:
    """A template that names what it is told to ignore is a contradiction."""
    with pytest.raises(ValueError, match=r"field \{a\} is not a parameter, or an ignored one"):
        KeyMaker(two, "{a}", key=None, ignore=("a",), version="")
    assert KeyMaker(two, "{b}", key=None, ignore=("a",), version="")((1, 2), {}) == "2"


# --- versions


@pytest.mark.parametrize("form", [{"template": "k:{x}"}, {"template": None}, {"template": None, "key": str}])
def test_a_version_changes_the_key_of_every_form(form: dict[str, Any]) -> None:
    """Each version has keys of its own, apart from those without a version."""
    options = {"key": None, "ignore": ()} | form
    keys = [KeyMaker(one, **options, version=version)((1,), {}) for version in ("", "2", "v2", "%v2", "é:")]
    assert len(set(keys)) == len(keys)
    assert [key.removeprefix(keys[0]) for key in keys] == ["", "%v2", "%vv2", "%v%25v2", "%v%C3%A9%3A"]


@given(st.text("%v2()'", max_size=8), st.text("%v2()'", max_size=8), st.text("%v2()", max_size=4))
def test_a_version_is_never_mistaken_for_an_argument(value: str, other: str, version: str) -> None:
    """An automatic key with a version meets no key without one, nor one with another version."""
    plain, versioned = automatic(one), automatic(one, version=version or "1")
    assert plain(value) != versioned(other)
    assert versioned(value) != automatic(one, version=f"{version}%v2")(other)


def test_a_version_that_is_no_str_is_a_type_error() -> None:
    """A number as version says what it has to be."""
    with pytest.raises(TypeError, match="version= a str"):
        KeyMaker(one, None, key=None, ignore=(), version=2)  # type: ignore[arg-type]


# --- key=


def test_a_callable_gets_the_same_arguments_as_the_function() -> None:
    """Positional stay positional, keywords keywords, and no default is added."""
    maker = KeyMaker(every, None, key=lambda *args, **kwargs: f"{args} {kwargs}", ignore=(), version="")
    assert maker((1, 2), {"d": 4, "x": 5}) == "(1, 2) {'d': 4, 'x': 5}"
    assert maker.form == "callable"


@pytest.mark.parametrize(
    ("returned", "error"), [(1, TypeError), (b"k", TypeError), ("", ValueError), ("\ud800", ValueError)]
)
def test_what_a_callable_returns_is_checked(returned: object, error: type[Exception]) -> None:
    """The same rules hold as for a key given by hand, also where a version is appended."""
    for version in ("", "2"):
        maker = KeyMaker(one, None, key=lambda x: returned, ignore=(), version=version)
        with pytest.raises(error):
            maker((1,), {})


def test_key_stands_alone() -> None:
    """A template or ignored names beside key= would have no effect, so they are refused."""
    with pytest.raises(ValueError, match="key= stand alone"):
        KeyMaker(one, "{x}", key=str, ignore=(), version="")
    with pytest.raises(ValueError, match="key= stand alone"):
        KeyMaker(one, None, key=str, ignore=("x",), version="")


# --- the automatic form

GOLDEN: list[tuple[object, str]] = [
    (None, "None"),
    (True, "True"),
    (1, "1"),
    (-7, "-7"),
    (10**400, hex(10**400)),
    (1.0, "1.0"),
    (-0.0, "-0.0"),
    (0.0, "0.0"),
    (1e16, "1e+16"),
    (float("nan"), "nan"),
    (float("-inf"), "-inf"),
    ("1", "'1'"),
    ("", "''"),
    ("it's", r"'it\'s'"),
    ("a\\", "'a\\\\'"),
    ("é\n\0\U0001fae8\u0378", "'é\n\0\U0001fae8\u0378'"),
    (b"1", "b'1'"),
    (b"it's\xff", 'b"it\'s\\xff"'),
    ((), "()"),
    ((1,), "(1)"),
    ((1, ("a",)), "(1,('a'))"),
    ([], "list()"),
    ([1, [2]], "list(1,list(2))"),
    ({3, 1, "2"}, "set('2',1,3)"),
    (set(), "set()"),
    (frozenset({2, 1}), "frozenset(1,2)"),
    ({}, "dict()"),
    ({"b": 1, "a": [2]}, "dict(('a',list(2)),('b',1))"),
    (Decimal("1.50"), "Decimal('1.50')"),
    (Decimal("1e400"), "Decimal('1E+400')"),
    (UUID(int=5), "UUID('00000000-0000-0000-0000-000000000005')"),
    (date(2024, 1, 31), "date('2024-01-31')"),
    (time(12, 0, 0, 5), "time('12:00:00.000005',None,0)"),
    (datetime(2024, 1, 31, 12), "datetime('2024-01-31T12:00:00',None,0)"),
    (datetime(2024, 1, 31, tzinfo=UTC), "datetime('2024-01-31T00:00:00',timezone(timedelta(0,0,0),'UTC'),0)"),
    (
        datetime(2024, 10, 27, 2, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        "datetime('2024-10-27T02:00:00',ZoneInfo('Europe/Berlin'),1)",
    ),
    (timedelta(days=-1, microseconds=3), "timedelta(-1,0,3)"),
    (Color.CRIMSON, f"{__name__}.Color('RED')"),
    (Level.LOW, f"{__name__}.Level('LOW')"),
    (Mode.READ, f"{__name__}.Mode('READ')"),
    (Perm.R, f"{__name__}.Perm('R')"),
    (Perm.R | Perm.W, f"{__name__}.Perm((3))"),
    (Perm(0), f"{__name__}.Perm((0))"),
    (Perm(8), f"{__name__}.Perm((8))"),
    (Color, f"class('{__name__}.Color')"),
    (int, "class('builtins.int')"),
    (Tenant("acme"), f"{__name__}.Tenant('acme')"),
    (Tenant((1, Tenant(None))), f"{__name__}.Tenant((1,{__name__}.Tenant(None)))"),
]


@pytest.mark.parametrize(("value", "text"), GOLDEN)
def test_an_automatic_key_is_written_as_ever(value: object, text: str) -> None:
    """A fixed table: a change of any form, or between Python versions, would lose everybody's cache."""
    assert value_text(value) == text


def test_an_automatic_key_reads_like_the_call() -> None:
    """`module.qualname` and the arguments, in the order of the parameters."""
    assert automatic(two)(42, "a") == f"{__name__}.two(42,'a')"
    assert automatic(every)(1, 2, d=4) == f"{__name__}.every(1,2,3,*(),d=4,e='e',**dict())"
    full = automatic(every)(1, 2, 0, 8, 9, d=4, e=5, z=7, y=6)
    assert full == f"{__name__}.every(1,2,0,*(8,9),d=4,e=5,**dict(('y',6),('z',7)))"
    assert automatic(lambda_free_local())().endswith("lambda_free_local.<locals>.local()")


def lambda_free_local() -> Callable[[], None]:
    def local() -> None: ...

    return local


def test_lookalikes_have_keys_of_their_own() -> None:
    """1, True, 1.0, "1", b"1" and their like never meet."""
    alike = [
        0,
        False,
        0.0,
        -0.0,
        1,
        True,
        1.0,
        "1",
        b"1",
        Decimal(1),
        Decimal("1.0"),
        None,
        "None",
        "",
        b"",
        (),
        [],
        {},
    ]
    alike += [
        set(),
        frozenset(),
        (1,),
        [1],
        {1},
        frozenset({1}),
        {1: 1},
        ((1, 1),),
        [(1, 1)],
        "(1)",
        ((1,),),
        (1, 1),
    ]
    alike += [
        Color.RED,
        "RED",
        Level.LOW,
        Perm.R,
        Perm(8),
        Perm(16),
        int,
        "int",
        Tenant(1),
        Tenant("1"),
        Tenant((1,)),
    ]
    alike += [date(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 1, 1, fold=1)]
    alike += [datetime(2024, 1, 1, tzinfo=zone) for zone in (UTC, timezone(timedelta(0), "Z"), ZoneInfo("UTC"))]
    texts = [value_text(value) for value in alike]
    assert len(set(texts)) == len(texts)


texts = st.text(st.characters(codec="utf-8"), max_size=6) | st.text("'\\(),=b ", max_size=4)
zones = (
    st.none()
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), texts)
    | st.sampled_from([UTC, ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")])
)
atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 2)
    | st.floats()
    | texts
    | st.binary(max_size=6)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.builds(lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.times(), zones, st.integers(0, 1))
    | st.builds(lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.integers(0, 1))
    | st.timedeltas()
    | st.sampled_from([*Color, *Level, *Mode, *Perm, Perm(8), Color, Tenant, int, str])
)
hashables = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(hashables, max_size=3)
        | st.dictionaries(hashables, inner, max_size=3)
        | inner.map(Tenant)
    ),
    max_leaves=8,
)


def identity(value: Any) -> object:
    """The value with its types, so that == tells apart what a key has to tell apart."""
    cls = type(value)
    inside: object = value
    if cls in (tuple, list):
        inside = tuple(map(identity, value))
    elif cls in (set, frozenset):
        inside = frozenset(Counter(map(identity, value)).items())
    elif cls is dict:
        inside = frozenset(Counter((identity(key), identity(item)) for key, item in value.items()).items())
    elif cls is float:
        inside = struct.pack("d", value) if value == value else "nan"
    elif cls is Decimal:
        inside = value.as_tuple()
    elif cls in (time, datetime):
        inside = (value.replace(tzinfo=None, fold=0), identity(value.tzinfo), value.fold)
    elif cls is timezone:
        inside = (value.utcoffset(None), value.tzname(None))
    elif cls is ZoneInfo:
        inside = value.key
    elif cls is Tenant:
        inside = identity(value.stands_for)
    return cls, inside


BY_NAME: dict[str, Any] = {
    f"{cls.__module__}.{cls.__qualname__}": cls for cls in (Color, Level, Mode, Perm, Tenant, int, str)
}
REBUILD: dict[str, Callable[[list[Any]], object]] = {
    "": tuple,
    "list": list,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "Decimal": lambda parts: Decimal(*parts),
    "UUID": lambda parts: UUID(*parts),
    "date": lambda parts: date.fromisoformat(*parts),
    "time": lambda parts: time.fromisoformat(parts[0]).replace(tzinfo=parts[1], fold=parts[2]),
    "datetime": lambda parts: datetime.fromisoformat(parts[0]).replace(tzinfo=parts[1], fold=parts[2]),
    "timedelta": lambda parts: timedelta(*parts),
    "timezone": lambda parts: timezone(*parts),
    "ZoneInfo": lambda parts: ZoneInfo(*parts),
    "class": lambda parts: BY_NAME[parts[0]],
}
TOKEN = re.compile(
    r"""(?P<bytes>b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*")|'(?P<str>(?:[^'\\]|\\.)*)'|(?P<word>[^(),]*)""",
    re.DOTALL,
)


def read(text: str, at: int = 0) -> tuple[Any, int]:
    """The value written at that place of an automatic key, and the place behind it."""
    token = TOKEN.match(text, at)
    assert token is not None
    at = token.end()
    if token["bytes"] is not None:
        return ast.literal_eval(token["bytes"]), at
    if token["str"] is not None:
        return re.sub(r"\\(.)", r"\1", token["str"]), at
    word = token["word"]
    if text[at : at + 1] != "(":
        constants = {"None": None, "True": True, "False": False}
        is_int = re.fullmatch(r"-?(\d+|0x[0-9a-f]+)", word)
        return constants[word] if word in constants else int(word, 0) if is_int else float(word), at
    parts: list[Any] = []
    at += 1
    while text[at] != ")":
        part, at = read(text, at)
        parts.append(part)
        at += text[at] == ","
    if word in REBUILD:
        return REBUILD[word](parts), at + 1
    cls = BY_NAME[word]
    if issubclass(cls, enum.Enum):
        return cls[parts[0]] if type(parts[0]) is str else cls(*parts[0]), at + 1
    return cls(*parts), at + 1


@given(values)
def test_every_value_can_be_read_back_from_its_key(value: object) -> None:
    """An automatic key has an inverse, so no two different arguments can meet."""
    text = value_text(value)
    back, end = read(text)
    assert end == len(text)
    assert identity(back) == identity(value)


@given(values, values)
def test_keys_are_equal_exactly_when_the_typed_arguments_are(a: object, b: object) -> None:
    """Two calls share a key if and only if their arguments agree in value and in type."""
    key = automatic(two)
    rebuilt = read(value_text(a))[0]
    assert key(a, b) == key(rebuilt, b)
    assert (key(a, b) == key(b, a)) == (identity(a) == identity(b))
    assert (key(a, (b,)) == key((a,), b)) == (identity((a, (b,))) == identity(((a,), b)))


@given(st.lists(values, max_size=3), st.lists(values, max_size=3))
def test_argument_lists_never_meet(a: list[object], b: list[object]) -> None:
    """Lists of arguments of any length share a key only where they are the same list."""

    def func(*args: object) -> None: ...

    key = automatic(func)
    assert (key(*a) == key(*b)) == (identity(a) == identity(b))


@given(st.permutations(range(8)), st.permutations("abcdefgh"))
def test_sets_and_dicts_have_no_order(numbers: list[int], letters: list[str]) -> None:
    """However a set or dict was built, equal ones give equal keys."""
    pairs = list(zip(letters, numbers, strict=True))
    assert value_text(dict(pairs)) == value_text(dict(sorted(pairs)))
    assert value_text(set(letters)) == value_text(set("abcdefgh"))
    assert value_text({number * 2**61: 0 for number in numbers}) == value_text({n * 2**61: 0 for n in range(8)})


def test_the_same_call_has_one_key_however_it_is_written() -> None:
    """Defaults are bound, and neither keyword order nor keyword against positional matters, in both forms."""
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = [
        ((1, 2), {"d": 4}),
        ((1, 2, 3), {"d": 4}),
        ((1,), {"d": 4, "b": 2}),
        ((1,), {"b": 2, "c": 3, "e": "e", "d": 4}),
    ]
    for template in (None, "{a}:{b}:{c}:{d}:{e}"):
        maker = KeyMaker(every, template, key=None, ignore=(), version="")
        assert len({maker(args, kwargs) for args, kwargs in calls}) == 1


def test_an_automatic_key_does_not_depend_on_the_decimal_context() -> None:
    """A thread that writes exponents in lower case makes the same keys."""
    before = value_text(Decimal("1E+400"))
    with localcontext(capitals=0, prec=2):
        assert value_text(Decimal("1E+400")) == before


def test_an_int_of_any_size_has_an_automatic_key() -> None:
    """Python's limit on decimal digits, which each process may set for itself, plays no part."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        keys = [
            value_text(sign * (2**bits + off))
            for bits in (1023, 1024, 1025, 99_999)
            for off in (-1, 0, 1)
            for sign in (-1, 1)
        ]
    finally:
        sys.set_int_max_str_digits(limit)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Plain(),
        1j,
        bytearray(b"x"),
        range(3),
        Point(1, 2),
        NumberedInt(1),
        Label("x"),
        Counter("aa"),
        [1, (Plain(),)],
        {"a": {1: Plain()}},
        Tenant(Plain()),
        one,
        Ellipsis,
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_without_a_stable_form_is_a_type_error(value: object) -> None:
    """The message names the function, the argument, the type that is to blame and each way out."""
    with pytest.raises(TypeError) as caught:
        automatic(two)(1, value)
    message = str(caught.value)
    assert message.startswith(f"{__name__}.two(): argument 'b' holds a ")
    to_blame = Plain if isinstance(value, (list, dict, Tenant)) and not isinstance(value, Counter) else type(value)
    assert f" {to_blame.__module__}.{to_blame.__qualname__}, which has no stable form" in message
    assert all(way in message for way in ("template", "key=", "ignore=('b',)", "__cache_key__"))


def test_a_zone_without_a_name_is_a_type_error() -> None:
    """A ZoneInfo read from a file has nothing to be told by."""
    utc = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", 0, 0, 0) + b"UTC\0"
    nameless = ZoneInfo.from_file(io.BytesIO(utc))
    with pytest.raises(TypeError, match=r"holds a zoneinfo\.ZoneInfo, which has no stable form"):
        value_text(datetime(2024, 1, 1, tzinfo=nameless))


def test_an_argument_that_contains_itself_is_a_type_error() -> None:
    """Endless nesting is named as such, and is no RecursionError."""
    endless: list[object] = []
    endless += [endless, endless]
    looped: dict[str, object] = {}
    looped["self"] = looped
    tenant = Tenant(None)
    tenant.stands_for = tenant
    deep: tuple[object, ...] = ()
    for _ in range(50_000):
        deep = (deep,)
    for value in (endless, looped, tenant, deep):
        with pytest.raises(TypeError, match="argument 'x' is nested more than 100 levels deep, or contains itself"):
            automatic(one)(value)


def test_an_error_in_cache_key_reaches_the_caller() -> None:
    """User code's own exceptions are not dressed up."""

    class Broken:
        def __cache_key__(self) -> str:
            raise LookupError("no id yet")

    with pytest.raises(LookupError, match="no id yet"):
        value_text(Broken())


def test_a_cache_key_of_none_is_no_stable_form() -> None:
    """`__cache_key__ = None` takes an inherited method back, as with __hash__."""

    class Undone(Tenant):
        __cache_key__ = None  # type: ignore[assignment]

    with pytest.raises(TypeError, match="has no stable form"):
        value_text(Undone(1))


def test_instances_are_told_apart_by_class() -> None:
    """Two classes with the same `__cache_key__()` share no key, a subclass included."""

    class Other(Tenant): ...

    assert len({value_text(Tenant(1)), value_text(Other(1)), value_text(1)}) == 3
    assert value_text(Tenant) == f"class('{__name__}.Tenant')"


def test_names_cannot_forge_arguments() -> None:
    """Delimiters in a class's or function's name are escaped."""
    forged = type("C',1", (), {"__module__": "m"})
    assert value_text((forged,)) == "(class('m.C%27%2C1'))"

    def func(x: object) -> None: ...

    func.__module__, func.__qualname__ = "m", "f(1)"
    assert automatic(func)(2) == "m.f%281%29(2)"


# --- ignored parameters, names, methods


def test_ignored_parameters_are_left_out() -> None:
    """Calls that differ in ignored arguments only share a key, and those need no stable form."""
    key = automatic(every, ignore=("a", "rest", "e", "more"))
    assert key(Plain(), 2, 3, object(), d=4, e=1j, z=object()) == f"{__name__}.every(2,3,d=4)"


def test_ignoring_an_unknown_name_is_a_value_error() -> None:
    """The message names function, parameters and the ignored names."""
    for template in (None, "{a}"):
        with pytest.raises(ValueError, match=rf"{__name__}.two\(a, b\), .*ignore=\('c',\) must name parameters"):
            KeyMaker(two, template, key=None, ignore=("c",), version="")


def test_ignore_as_a_bare_str_is_a_type_error() -> None:
    """`ignore="self"` would mean four names of one letter."""
    with pytest.raises(TypeError, match="collection of parameter names"):
        KeyMaker(two, None, key=None, ignore="a", version="")


def test_the_first_parameter_can_be_skipped_by_place() -> None:
    """`skip_first` ignores it under any name."""
    maker = KeyMaker(two, None, key=None, ignore=(), version="", skip_first=True)
    assert maker((Plain(), 2), {}) == f"{__name__}.two(2)"


@pytest.mark.parametrize(
    "func",
    [lambda x: x, functools.partial(two, 1), Tenant(1).__cache_key__],
    ids=["lambda", "partial", "bound"],
)
def test_a_function_without_a_name_of_its_own_needs_a_template(func: Callable[..., object]) -> None:
    """Two lambdas of a module would share keys, and so would the bound methods of two instances."""
    with pytest.raises(ValueError, match=r"a lambda, partial or bound method needs a template or key="):
        KeyMaker(func, None, key=None, ignore=(), version="")
    assert KeyMaker(func, "k", key=None, ignore=(), version="").form == "template"


def test_a_function_inside_a_lambda_has_a_name() -> None:
    """Only the lambda itself is nameless."""

    def inner() -> None: ...

    inner.__qualname__ = "<lambda>.<locals>.inner"
    assert automatic(inner)() == f"{__name__}.<lambda>.<locals>.inner()"


def test_a_method_needs_cache_key_only_where_it_counts() -> None:
    """It does if the automatic form includes the instance, and the class gives it no stable form."""

    def method(self: object, x: int) -> None: ...

    def needs(owner: type, **options: Any) -> bool:
        defaults = {"template": None, "key": None, "ignore": (), "version": ""}
        return KeyMaker(method, **(defaults | options)).needs_cache_key(owner)

    assert needs(Plain)
    assert not needs(Tenant)
    assert not needs(Color)
    assert not needs(type(Color))
    assert not needs(Plain, ignore=("self",))
    assert not needs(Plain, skip_first=True)
    assert not needs(Plain, template="{x}")
    assert not needs(Plain, key=lambda self, x: str(x))
    assert not KeyMaker(lambda_free_local(), None, key=None, ignore=(), version="").needs_cache_key(Plain)


def test_a_maker_tells_its_form_signature_and_name() -> None:
    """The decorator reads these."""
    maker = KeyMaker(two, None, key=None, ignore=(), version="")
    assert (maker.form, maker.name) == ("automatic", f"{__name__}.two")
    assert maker.signature == inspect.signature(two)


# --- wrong calls


@pytest.mark.parametrize(
    "options", [{"template": "k"}, {"template": None}, {"template": None, "key": lambda *a, **k: "k"}]
)
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2, 3), {}),
        ((1, 2), {"c": 3}),
        ((1, 2), {"b": 3}),
        ((), {"b": 1}),
        ((1,), {"c": 1}),
    ],
)
def test_wrong_arguments_are_a_type_error_in_every_form(
    options: dict[str, Any], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """A call that the function would refuse gets no key, and the message names the function."""
    with pytest.raises(TypeError, match=rf"^{__name__}\.two\(\) "):
        KeyMaker(two, **({"key": None, "ignore": (), "version": ""} | options))(args, kwargs)


def test_a_required_keyword_is_missed_and_positional_only_names_are_refused() -> None:
    """The rare kinds of parameters are checked too."""
    key = automatic(every)
    with pytest.raises(TypeError, match=r"every\(\) missing a required .*'d'"):
        key(1, 2)
    with pytest.raises(TypeError, match=r"every\(\) .*'a'"):
        key(b=2, d=4, a=1)


# --- other processes

SCRIPT = """
import enum
from tiercache.keys import KeyMaker

class Suit(enum.Enum):
    HEARTS = "h"
    CLUBS = "c"

class Perm(enum.Flag):
    READ = 1
    WRITE = 2

def func(a, b=frozenset({Suit.HEARTS, Suit.CLUBS, "x", None}), **more): ...

letters = "the quick brown fox jumps over the lazy dog".split()
maker = KeyMaker(func, None, key=None, ignore=(), version="1")
print(maker((set(letters),), {w: {v: set(w) for v in set(letters)} for w in set(letters)}))
print(maker((frozenset(frozenset(w) for w in letters), {Suit.CLUBS: Perm.READ | Perm.WRITE}), {"s": Suit}))
print(KeyMaker(func, "a:{a}:{b!s}/+-~", key=None, ignore=(), version="1")(("a:/+-~", 1), {}))
"""


def test_every_process_makes_the_same_keys() -> None:
    """Sets, dicts and enums give one key under any hash seed."""

    def keys(seed: int) -> str:
        env = {**os.environ, "PYTHONHASHSEED": str(seed)}
        run = [sys.executable, "-c", SCRIPT]
        return subprocess.run(run, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout

    assert keys(0) == keys(1) == keys(4242)
    assert len(keys(0).splitlines()) == 3
