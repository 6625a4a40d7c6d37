"""The compiled face: hits are answered, everything else is handed on; argument aliases; the type stubs."""

import asyncio
import importlib
import importlib.util
import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.local.face import Call, Face, monotonic
from tiercache.local.ready import Ready
from tiercache.local.table import Raises, Table

ROOT = Path(__file__).parent.parent
MODULES = ["face", "flight", "foreign", "lru", "ready", "store", "table", "xfetch"]


class Cache(Face):
    """A face that tells what it was handed."""

    def __init__(self, *, clock: Any = lambda: 0.0, copies: bool = False) -> None:
        super().__init__(Table(), clock, copies)

    def _get(self, key: Any, default: Any) -> Any:
        return ("get", key, default)

    def _get_or_load(self, key: Any, loader: Any, ttl: Any, policy: Any) -> Any:
        return ("get_or_load", key, loader, ttl, policy)

    async def _aget(self, key: Any, default: Any) -> Any:
        return ("aget", key, default)

    async def _aget_or_load(self, key: Any, loader: Any, ttl: Any, policy: Any) -> Any:
        return ("aget_or_load", key, loader, ttl, policy)


class Function(Call):
    """A call that tells what it was handed, and can be awaited if it is an async one's."""

    def __init__(self, face: Face, awaited: bool = False, bound: int = 100) -> None:
        super().__init__(face, awaited, bound)

    def _call(self, args: Any, kwargs: Any) -> Any:
        return ("call", args, kwargs)


def put(face: Face, key: str, value: Any, end: float = 100.0) -> None:
    flight = face.table.probe(key, 0.0, mode=2)[1]
    face.table.settle(flight, value, (value, end, end, end, 0.0, 1.0, face.table.stamp(), b"", 0))


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    put(cache, "k", "value")
    return cache


def loader() -> None:
    raise AssertionError("a hit runs no loader")


def all_ways(cache: Face, key: Any, **policy: Any) -> list[Any]:
    """What the four methods give, the awaitables awaited."""

    async def give(awaitable: Any) -> Any:
        return await awaitable

    found = [] if policy else [cache.get(key, "default"), asyncio.run(give(cache.aget(key, "default")))]
    return [
        *found,
        cache.get_or_load(key, loader, **policy),
        asyncio.run(give(cache.aget_or_load(key, loader, **policy))),
    ]


def test_hits_are_answered_at_once(cache: Cache) -> None:
    """A hit needs no Python method, in either colour."""
    assert all_ways(cache, "k") == ["value"] * 4
    assert all_ways(cache, "k", ttl=5, beta=2) == ["value"] * 2
    assert type(cache.aget("k")) is Ready
    assert type(cache.aget_or_load("k", loader)) is Ready


def test_everything_else_is_handed_on_unread(cache: Cache) -> None:
    """A miss reaches the Python method with the arguments as they were given."""
    assert all_ways(cache, "absent") == [
        ("get", "absent", "default"),
        ("aget", "absent", "default"),
        ("get_or_load", "absent", loader, None, {}),
        ("aget_or_load", "absent", loader, None, {}),
    ]
    assert cache.get("absent") == ("get", "absent", None)
    assert cache.get_or_load("absent", loader, ttl="x", odd=1) == ("get_or_load", "absent", loader, "x", {"odd": 1})


class Sub(str):
    pass


class Lying(str):
    """Its hash and equality claim that it is k."""

    def __hash__(self) -> int:
        return hash("k")

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize("key", [None, 1, b"k", ("k",), ["k"], Sub("k"), Lying("x"), "", "\0", "\ud800", "k" * 10_000])
def test_odd_keys_are_the_long_ways_to_judge(cache: Cache, key: Any) -> None:
    """Whatever is not an exact str of the table is handed on, without a look at it."""
    assert [answer[1] for answer in all_ways(cache, key)] == [key] * 4
    assert all(type(answer) is tuple for answer in all_ways(cache, key))


def test_a_key_with_a_hash_sign_never_meets_a_digest(cache: Cache) -> None:
    """The table knows a long key by # and its digest; a user's key that looks like one is not that key."""
    put(cache, "#0123456789abcdef", "somebody else's")
    assert [answer[0] for answer in all_ways(cache, "#0123456789abcdef")] == [
        "get",
        "aget",
        "get_or_load",
        "aget_or_load",
    ]
    function = Function(cache)
    function._remember(("a long argument",), {}, "#0123456789abcdef")
    assert function("a long argument") == "somebody else's"


def test_arguments_are_checked_by_name(cache: Cache) -> None:
    """Forgotten and superfluous arguments are TypeErrors on hits too."""
    for call in (
        lambda: cache.get(),  # type: ignore[call-overload]
        lambda: cache.get("k", 1, 2),  # type: ignore[call-overload]
        lambda: cache.get_or_load("k"),  # type: ignore[call-arg]
        lambda: cache.get_or_load("k", loader, 60),  # type: ignore[misc]
        lambda: cache.aget_or_load("k"),  # type: ignore[call-overload]
    ):
        with pytest.raises(TypeError):
            call()
    assert cache.get_or_load(loader=loader, key="k") == "value"
    assert cache.get(default=1, key="k") == "value"


def test_a_face_that_copies_answers_nothing_itself(cache: Cache) -> None:
    """With copy=True no value leaves by the short way, of the cache or of a cached function."""
    copying = Cache(copies=True)
    put(copying, "k", ["value"])
    assert [answer[0] for answer in all_ways(copying, "k")] == ["get", "aget", "get_or_load", "aget_or_load"]
    function = Function(copying)
    function._remember((1,), {}, "k")
    assert function(1) == ("call", (1,), {})


@pytest.mark.parametrize("copy", [True, False])
def test_a_copy_word_in_the_call_goes_the_long_way(cache: Cache, copy: bool) -> None:
    """Whether this call gets a copy is for the long way to decide."""
    assert [answer[0] for answer in all_ways(cache, "k", copy=copy)] == ["get_or_load", "aget_or_load"]


def test_the_clock_is_what_it_was_given() -> None:
    """With a stepped clock, entries end when it says so."""
    now = 0.0
    cache = Cache(clock=lambda: now)
    put(cache, "k", "value", end=10.0)
    now = 9.999
    assert cache.get("k") == "value"
    now = 10.0
    assert cache.get("k") == ("get", "k", None)


def test_the_clock_is_monotonic_by_default() -> None:
    """Without one, it is the clock of time.monotonic."""
    before = time.monotonic()
    assert before <= monotonic() <= time.monotonic()
    cache = Cache(clock=None)
    put(cache, "k", "value", end=monotonic() + 1000)
    put(cache, "old", "value", end=monotonic())
    assert cache.get("k") == "value"
    assert cache.get("old") == ("get", "old", None)


@pytest.mark.parametrize("clock", [lambda: 1 // 0, lambda: "noon", lambda: None, lambda now: 0.0])
def test_errors_of_the_clock_come_out(clock: Any) -> None:
    """A clock that raises, or tells no number, is not taken for a miss."""
    cache = Cache(clock=clock)
    with pytest.raises((ZeroDivisionError, TypeError)):
        cache.get("k")
    with pytest.raises((ZeroDivisionError, TypeError)):
        cache.aget("k")


def test_a_clock_may_tell_an_int_or_minus_one() -> None:
    """Any number will do, also the one that marks errors inside."""
    for now in (-1, -1.0, True):
        cache = Cache(clock=lambda now=now: now)
        put(cache, "k", "value")
        assert cache.get("k") == "value"


def test_a_clock_may_use_the_cache() -> None:
    """The clock is read before the table is locked or looked at."""

    def clock() -> float:
        cache.table.clear()
        return 0.0

    cache = Cache(clock=clock)
    put(cache, "k", "value")
    assert cache.get("k") == ("get", "k", None)


def test_an_unfinished_face_answers_nothing() -> None:
    """Without __init__ there is no table, and no crash."""
    assert Cache.__new__(Cache).get("k") == ("get", "k", None)
    with pytest.raises(TypeError):
        Face(None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Face(Table()).get("k")
    with pytest.raises((TypeError, AttributeError)):
        Function.__new__(Function)(1)
    with pytest.raises((TypeError, AttributeError)):
        Function.__new__(Function)._remember((1,), {}, "k")
    with pytest.raises(TypeError):
        Function(None)  # type: ignore[arg-type]


def test_a_cleared_or_closed_table_has_no_hits(cache: Cache) -> None:
    """After clear, nothing that was cached is served."""
    cache.table.closed = True
    cache.table.clear()
    assert cache.get("k") == ("get", "k", None)


def test_falsy_values_are_hits() -> None:
    """None, 0 and the rest are values like others."""
    cache = Cache()
    for value in (None, 0, "", (), False, float("nan")):
        put(cache, "k", value)
        assert all(found is value for found in all_ways(cache, "k"))


def test_a_negative_error_is_handed_on(cache: Cache) -> None:
    """A Raises is never returned as a value."""
    put(cache, "k", Raises(KeyError("k")))
    assert cache.get("k") == ("get", "k", None)


# Aliases: from exact ints and strings to the key that formatting gave.


class Int(int):
    pass


ALIKE = [1, True, 1.0, "1", b"1", 1 + 0j, Int(1), Sub("1"), None, (1,), ("1",), frozenset({1})]


def test_arguments_that_are_equal_but_not_the_same_never_meet(cache: Cache) -> None:
    """1, True, 1.0, "1" and subclasses are different arguments; only exact ints and strings have aliases."""
    function = Function(cache)
    for number, argument in enumerate(ALIKE):
        put(cache, f"key {number}", number)
        function._remember((argument,), {}, f"key {number}")
    for number, argument in enumerate(ALIKE):
        expected = number if type(argument) in (int, str) else ("call", (argument,), {})
        assert function(argument) == expected


@pytest.mark.parametrize("other", ALIKE, ids=repr)
def test_several_arguments_have_an_alias_if_all_of_them_can(cache: Cache, other: Any) -> None:
    """A pair is remembered as a pair of exact types, and is not the tuple given as one argument."""
    function = Function(cache)
    function._remember((1, other), {}, "k")
    expected = "value" if type(other) in (int, str) else ("call", (1, other), {})
    assert function(1, other) == expected
    assert function((1, other)) == ("call", ((1, other),), {})
    assert function(True, other) == ("call", (True, other), {})
    assert function(1) == ("call", (1,), {})


arguments = st.lists(
    st.one_of(st.integers(-2, 2), st.booleans(), st.sampled_from([0.0, 1.0, -0.0, "", "0", "1", None, b"", Int(1)])),
    max_size=3,
).map(tuple)


@given(remembered=arguments, asked=arguments)
def test_an_alias_leads_to_its_own_arguments_only(remembered: tuple[Any, ...], asked: tuple[Any, ...]) -> None:
    """What is remembered for some arguments is found for the same values of the same types, and no others."""
    cache = Cache()
    put(cache, "k", "value")
    function = Function(cache)
    function._remember(remembered, {}, "k")
    same = remembered == asked and [*map(type, remembered)] == [*map(type, asked)]
    plain = all(type(argument) in (int, str) for argument in asked)
    assert function(*asked) == ("value" if same and plain else ("call", asked, {}))


def test_calls_without_arguments_have_an_alias(cache: Cache) -> None:
    """No arguments are an alias too."""
    function = Function(cache)
    assert function() == ("call", (), {})
    function._remember((), {}, "k")
    assert function() == "value"


def test_keywords_have_no_alias(cache: Cache) -> None:
    """Keyword arguments take the formatted key."""
    function = Function(cache)
    function._remember((1,), {"a": 1}, "k")
    assert function(1) == ("call", (1,), {})
    function._remember((1,), {}, "k")
    assert function(1, a=2) == ("call", (1,), {"a": 2})
    assert function(1, **{}) == "value"


def test_aliases_are_bounded(cache: Cache) -> None:
    """However many arguments pass by, no more than `bound` of them are remembered."""
    function = Function(cache, bound=10)
    for number in range(1000):
        function._remember((number,), {}, "k")
        assert function(number) == "value"
        assert sum(function(earlier) == "value" for earlier in range(max(0, number - 30), number + 1)) <= 10


def test_an_alias_of_a_gone_entry_is_a_miss(cache: Cache) -> None:
    """Aliases lead to keys, not to entries: what was cut is loaded again."""
    function = Function(cache)
    function._remember((1,), {}, "k")
    assert function(1) == "value"
    cache.table.cut("k")
    assert function(1) == ("call", (1,), {})
    put(cache, "k", "new")
    assert function(1) == "new"


def test_an_async_function_gives_awaitables(cache: Cache) -> None:
    """A hit of an async function is awaited like its coroutine would be."""
    function = Function(cache, awaited=True)
    function._remember((1,), {}, "k")
    assert type(function(1)) is Ready
    assert asyncio.run(function(1)) == "value"
    assert function(2) == ("call", (2,), {})


# Stubs.


def test_every_compiled_module_has_its_stub() -> None:
    """Beside each module stands a .pyi, and every public name of the one is in the other."""
    assert sorted(path.stem for path in (ROOT / "tiercache" / "local").glob("*.pyx")) == MODULES
    for name in MODULES:
        module = importlib.import_module(f"tiercache.local.{name}")
        stub = (ROOT / "tiercache" / "local" / f"{name}.pyi").read_text()
        for public, value in vars(module).items():
            if public.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            assert f"class {public}" in stub or f"def {public}(" in stub, f"{name}.{public} is not in the stub"
            for attribute in vars(value) if inspect.isclass(value) else ():
                if not attribute.startswith("_"):
                    assert f" {attribute}" in stub, f"{name}.{public}.{attribute} is not in the stub"


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_stubs_match_the_compiled_modules(tmp_path: Path) -> None:
    """mypy's stubtest finds every name, and no wrong signature."""
    allowed = tmp_path / "allowed"
    allowed.write_text(
        r"""
            .*\.__(reduce|setstate)_cython__
            .*\.__(test|pyx_capi)__
            .*\.(_Fill|[DTW])
            .*\.(Store|Face|Call)
        """.replace(" ", "")
    )
    stubtest = subprocess.run(
        [
            *(sys.executable, "-m", "mypy.stubtest", "--concise"),
            *("--allowlist", str(allowed), "--ignore-unused-allowlist"),
            *(f"tiercache.local.{name}" for name in MODULES),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert stubtest.returncode == 0, stubtest.stdout + stubtest.stderr
