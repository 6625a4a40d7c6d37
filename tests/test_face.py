"""The compiled face: hits are answered, everything else is handed on; argument aliases; the type stubs."""

import asyncio
import enum
import importlib
import importlib.util
import inspect
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.local.alias import Aliases
from tiercache.local.face import Call, Face, by_vectorcall, monotonic
from tiercache.local.ready import Ready
from tiercache.local.table import Raises, Table

ROOT = Path(__file__).parent.parent
MODULES = [
    *("alias", "combining", "face", "flight", "following", "foreign", "lru", "outcome", "packing", "ready"),
    *("record", "run", "store", "table", "trip", "turnstile", "waiter", "warmth", "worth", "xfetch"),
]


class Cache(Face):
    """A face that tells what it was handed."""

    def __init__(self, *, clock: Any = lambda: 0.0, detour: bool = False) -> None:
        super().__init__(Table(), clock, detour)

    def _get(self, key: Any, default: Any) -> Any:
        return ("get", key, default)

    def _get_or_load(self, key: Any, loader: Any, ttl: Any, policy: Any) -> Any:
        return ("get_or_load", key, loader, ttl, policy)

    async def _aget(self, key: Any, default: Any) -> Any:
        return ("aget", key, default)

    async def _aget_or_load(self, key: Any, loader: Any, ttl: Any, policy: Any) -> Any:
        return ("aget_or_load", key, loader, ttl, policy)


@by_vectorcall
class Function(Call):
    """A call that tells what it was handed, and can be awaited if it is an async one's."""

    def __init__(self, face: Face, awaited: bool = False, bound: int = 100, ignored: Any = ()) -> None:
        super().__init__(face, awaited, Aliases(bound, ignored))

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
    function._hit(("a long argument",), {}, "#0123456789abcdef")
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
    copying = Cache(detour=True)
    put(copying, "k", ["value"])
    assert [answer[0] for answer in all_ways(copying, "k")] == ["get", "aget", "get_or_load", "aget_or_load"]
    function = Function(copying)
    function._hit((1,), {}, "k")
    assert function(1) == ("call", (1,), {})


def test_the_short_way_can_be_closed_and_opened_at_any_time(cache: Cache) -> None:
    """Also for a cached function that has learnt already which arguments lead to which entry."""
    put(cache, "k", "value")
    function = Function(cache)
    assert function._hit((1,), {}, "k") == function(1) == cache.get("k") == "value"
    cache._detour = True
    assert cache.get("k") == ("get", "k", None)
    assert function(1) == ("call", (1,), {})
    assert function._hit((1,), {}, "k") is NotImplemented
    cache._detour = False
    assert function(1) == cache.get("k") == "value"


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
    assert Function.__new__(Function)(1) == ("call", (1,), {})
    assert Function.__new__(Function)._hit((1,), {}, "k") is NotImplemented
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


class Member(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    ONE = "1"


ALIKE = [1, True, 1.0, "1", b"1", 1 + 0j, Int(1), Sub("1"), None, Member.ONE, Word.ONE, (1,), ("1",), frozenset({1})]
PLAIN = (int, str, bytes, type(None))


def test_arguments_that_are_equal_but_not_the_same_never_meet(cache: Cache) -> None:
    """1, True, 1.0, "1", enums and subclasses are different arguments; only exact plain ones have aliases."""
    function = Function(cache)
    for number, argument in enumerate(ALIKE):
        put(cache, f"key {number}", number)
        assert function._hit((argument,), {}, f"key {number}") == number
    for number, argument in enumerate(ALIKE):
        expected = number if type(argument) in PLAIN else ("call", (argument,), {})
        assert function(argument) == expected


@pytest.mark.parametrize("zero", [0.0, -0.0, float("nan"), Member.ONE, 1.0, True], ids=repr)
def test_what_formats_by_more_than_its_value_has_no_alias(cache: Cache, zero: Any) -> None:
    """-0.0 equals 0.0 and nan not itself, so neither is remembered, alone, beside others or by keyword."""
    function = Function(cache)
    for args, kwargs in (((zero,), {}), ((1, zero), {}), ((), {"x": zero})):
        function._hit(args, kwargs, "k")
        assert function(*args, **kwargs) == ("call", args, kwargs)


@pytest.mark.parametrize("other", ALIKE, ids=repr)
def test_several_arguments_have_an_alias_if_all_of_them_can(cache: Cache, other: Any) -> None:
    """A pair is remembered as a pair of exact types, and is not the tuple given as one argument."""
    function = Function(cache)
    function._hit((1, other), {}, "k")
    expected = "value" if type(other) in PLAIN else ("call", (1, other), {})
    assert function(1, other) == expected
    assert function((1, other)) == ("call", ((1, other),), {})
    assert function(True, other) == ("call", (True, other), {})
    assert function(1) == ("call", (1,), {})


plain = st.one_of(
    st.integers(-2, 2),
    st.sampled_from(
        [2**30, 2**30 - 1, -(2**30), 2**61 - 1, 2**64, -(2**100), "", "0", "1", "\xe9", "\u20ac", None, b"", b"0"]
    ),
)
arguments = st.lists(
    st.one_of(plain, st.booleans(), st.sampled_from([0.0, 1.0, -0.0, Int(1), Member.ONE])), max_size=3
).map(tuple)
keywords = st.dictionaries(st.sampled_from(["a", "b", "c"]), plain, max_size=2)


def told(args: tuple[Any, ...], kwargs: dict[str, Any], ignored: Any = ()) -> list[Any]:
    """What tells one call from another."""
    kept = [each for at, each in enumerate(args) if at not in ignored]
    return [len(args), [(type(each), each) for each in kept], [(name, type(v), v) for name, v in kwargs.items()]]


@given(remembered=arguments, named=keywords, asked=arguments, also=keywords, ignored=st.sets(st.integers(0, 2)))
def test_an_alias_leads_to_its_own_arguments_only(
    remembered: Any, named: Any, asked: Any, also: Any, ignored: set[int]
) -> None:
    """What is remembered for some arguments is found for the same values of the same types and names, and no others."""
    cache = Cache()
    put(cache, "k", "value")
    function = Function(cache, ignored=ignored)
    function._hit(remembered, named, "k")
    same = told(remembered, named, ignored) == told(asked, also, ignored)
    heard = [*(each for at, each in enumerate(asked) if at not in ignored), *also.values()]
    short = all(type(argument) in PLAIN for argument in heard)
    assert function(*asked, **also) == ("value" if same and short else ("call", asked, also))


@given(calls=st.lists(st.tuples(arguments, keywords), max_size=60))
def test_many_aliases_lead_each_to_its_own_key(calls: list[Any]) -> None:
    """Whatever else is remembered, a call gets the value of its own key, or none."""
    cache = Cache()
    function = Function(cache, bound=20)
    for args, kwargs in calls:
        key = repr(told(args, kwargs))
        put(cache, key, key)
        assert function._hit(args, kwargs, key) == key
    for args, kwargs in calls:
        assert function(*args, **kwargs) in (repr(told(args, kwargs)), ("call", args, kwargs))


class Untouchable:
    """Whoever looks at it runs code that fails."""

    __hash__ = __eq__ = lambda *_: 1 // 0  # type: ignore[assignment]


def test_no_code_of_an_arguments_class_runs(cache: Cache) -> None:
    """An argument that is not plain is handed on unread, and one without a say in the key is not even that."""
    function = Function(cache, ignored=[0])
    this = Untouchable()
    assert function._hit((this, 1), {}, "k") == "value"
    assert function(Untouchable(), 1) == "value"
    assert function(1, this) == ("call", (1, this), {})
    assert function(this) == ("call", (this,), {})


def test_ignored_arguments_are_counted(cache: Cache) -> None:
    """A call with too few or too many arguments is the function's to refuse, whatever was remembered."""
    function = Function(cache, ignored=[1])
    function._hit((1, "ignored"), {}, "k")
    assert function(1, object()) == "value"
    assert function(1) == ("call", (1,), {})
    assert function(1, 2, 3) == ("call", (1, 2, 3), {})


def test_calls_without_arguments_have_an_alias(cache: Cache) -> None:
    """No arguments are an alias too."""
    function = Function(cache)
    assert function() == ("call", (), {})
    function._hit((), {}, "k")
    assert function() == "value"


def test_keywords_have_an_alias_of_their_own(cache: Cache) -> None:
    """The names belong to it, whether they are the same objects as before or not."""
    function = Function(cache)
    function._hit((1,), {"a": 1}, "k")
    assert function(1, a=1) == "value"
    assert function(1, **{"".join(["a"]): 1}) == "value"
    assert function(1, 1) == ("call", (1, 1), {})
    assert function(1, b=1) == ("call", (1,), {"b": 1})
    assert function(1, a=2) == ("call", (1,), {"a": 2})
    assert function(1) == ("call", (1,), {})
    function._hit((1,), {}, "k")
    assert function(1, **{}) == "value"


def test_calls_of_many_arguments_have_no_alias(cache: Cache) -> None:
    """Beyond 32 arguments every key is formatted."""
    function = Function(cache)
    for count in (32, 33, 40):
        args = tuple(range(count))
        assert function._hit(args, {}, "k") == ("value" if count <= 32 else NotImplemented)
        assert function(*args) == ("value" if count <= 32 else ("call", args, {}))


def test_aliases_are_bounded(cache: Cache) -> None:
    """However many arguments pass by, no more than `bound` of them are remembered."""
    function = Function(cache, bound=10)
    for number in range(1000):
        function._hit((number,), {}, "k")
        assert function(number) == "value"
        assert sum(function(earlier) == "value" for earlier in range(max(0, number - 30), number + 1)) <= 10


def test_arguments_crafted_to_collide_are_handed_on(cache: Cache) -> None:
    """Of arguments whose hashes agree a few are remembered, the others take the long way; all are right."""
    function = Function(cache, bound=1000)
    alike = [n * (2**61 - 1) + 5 for n in range(1, 200)]
    assert len({hash(each) for each in alike}) == 1
    for number in alike:
        put(cache, str(number), number)
        assert function._hit((number,), {}, str(number)) == number
    answers = [function(number) for number in alike]
    assert all(answer in (number, ("call", (number,), {})) for number, answer in zip(alike, answers, strict=True))
    assert 0 < sum(type(answer) is int for answer in answers) <= 16


def test_an_alias_of_a_gone_entry_is_a_miss(cache: Cache) -> None:
    """Cut, cleared and evicted entries are not served by their aliases, nor is what came into their place."""
    function = Function(cache)
    for end in (lambda: cache.table.cut("k"), cache.table.clear, lambda: cache.table.unquiet("k")):
        put(cache, "k", "value")
        assert function._hit((1,), {}, "k") == "value"
        assert function(1) == "value"
        end()
        assert function(1) == ("call", (1,), {})
        put(cache, "other", "in its place")
        assert function(1) == ("call", (1,), {})
        cache.table.clear()


def test_an_alias_follows_its_entry_through_refreshes(cache: Cache) -> None:
    """A new value under the key is what the alias leads to from then on."""
    function = Function(cache)
    function._hit((1,), {}, "k")
    put(cache, "".join(["k"]), "new")
    assert function(1) == "new"


def test_an_alias_keeps_no_value_alive(cache: Cache) -> None:
    """What was evicted is freed, though the arguments that led to it are remembered."""

    class Value:
        pass

    function = Function(cache)
    put(cache, "big", value := Value())
    function._hit((1,), {}, "big")
    alive = weakref.ref(value)
    del value
    cache.table.cut("big")
    assert alive() is None


def test_an_alias_ends_with_its_epoch_and_its_freshness(cache: Cache) -> None:
    """The compare of a hit stands on this way too."""
    now = 0.0
    ticking = Cache(clock=lambda: now)
    put(ticking, "k", "value", end=10.0)
    function = Function(ticking)
    function._hit((1,), {}, "k")
    now = 9.999
    assert function(1) == "value"
    now = 10.0
    assert function(1) == ("call", (1,), {})
    now = 0.0
    assert function(1) == "value"
    ticking.table.cut_all()
    assert function(1) == ("call", (1,), {})


def test_an_async_function_gives_awaitables(cache: Cache) -> None:
    """A hit of an async function is awaited like its coroutine would be."""
    function = Function(cache, awaited=True)
    function._hit((1,), {}, "k")
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
            .*\.(_Fill|[CDTW])
            .*\.(Store|Face|Call|Turn|Waiter|CombiningPool|Turnstile.__call__)
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
