"""Policy: each field's default and range, what follows ttl, and how calls and decorators override it."""

import asyncio
import copy
import dataclasses
import math
import pickle
from collections.abc import Iterator
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache import Cache, Policy, PolicyError, TierCacheError
from tiercache.policy import FIELDS
from tiercache.testing import MemoryCache, SteppedClock

ABOVE_0, FROM_0 = r"\(0, 1e9\]", r"\[0, 1e9\]"
RANGES = {
    "ttl": ABOVE_0,
    "jitter": r"\[0, 1\)",
    "beta": FROM_0,
    "stale_while_revalidate": FROM_0,
    "stale_if_error": FROM_0,
    "negative_ttl": FROM_0,
    "local_ttl": ABOVE_0,
    "lease": r"\[0\.1, 60\]",
    "max_load": ABOVE_0,
    "timeout": ABOVE_0,
    "soft_timeout": ABOVE_0,
    "nested_wait": ABOVE_0,
    "error_backoff": ABOVE_0,
    "error_backoff_max": ABOVE_0,
    "half_life": ABOVE_0,
    "hot_rate": ABOVE_0,
}
FOLLOWERS = {"stale_if_error", "negative_ttl", "hot_rate"}
DEFAULTS = {
    "ttl": 300,
    "jitter": 0.1,
    "beta": 1,
    "stale_while_revalidate": 0,
    "stale_if_error": 60,
    "negative_ttl": 60,
    "negative_errors": (),
    "local_ttl": 30,
    "lease": 3,
    "max_load": 60,
    "timeout": None,
    "soft_timeout": None,
    "nested_wait": 1,
    "on_abandon": "cancel",
    "error_backoff": 0.1,
    "error_backoff_max": 5,
    "half_life": 60,
    "refresh": "background",
    "refresh_ahead": False,
    "hot_rate": 1,
    "copy": False,
}


def ends(field: str) -> tuple[float, float, bool, bool]:
    """Least and most of a field's range, and whether they belong to it."""
    text = RANGES[field].replace("\\", "")
    least, most = map(float, text[1:-1].split(","))
    return least, most, text[0] == "[", text[-1] == "]"


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        yield cache


def test_the_defaults_are_those_of_the_architecture() -> None:
    """Every field, and no other."""
    policy = Policy()
    assert {name: getattr(policy, name) for name in FIELDS} == DEFAULTS


@pytest.mark.parametrize("field", RANGES)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -1, -0.001, 1e10, 10**5000],
    ids=["nan", "inf", "-inf", "-1", "-0.001", "1e10", "10**5000"],
)
def test_a_number_outside_its_range_is_a_policy_error(field: str, value: float) -> None:
    """The error names the field and its range; it is a ValueError and one of ours."""
    with pytest.raises(PolicyError, match=f"^{field}=.*: must be a number in {RANGES[field]}$") as raised:
        Policy(**{field: value})
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, TierCacheError)


@pytest.mark.parametrize("field", RANGES)
@pytest.mark.parametrize("value", ["60", True, False, [1], b"1", 1j, object])
def test_a_field_that_is_no_number_is_a_policy_error(field: str, value: Any) -> None:
    """A str is not read as a number, nor a bool taken for one; the error names the type."""
    with pytest.raises(PolicyError, match=f"^{field}=.*: must be a number in .*, not {type(value).__name__}$"):
        Policy(**{field: value})


@pytest.mark.parametrize("field", RANGES.keys() - {"timeout", "soft_timeout", *FOLLOWERS, "ttl"})
def test_none_is_no_number(field: str) -> None:
    """Only the timeouts, and the fields that follow another, may be None."""
    with pytest.raises(PolicyError, match=f"^{field}=None: .*, not NoneType$"):
        Policy(**{field: None})


@pytest.mark.parametrize("field", RANGES)
def test_the_ends_of_a_range_are_as_written(field: str) -> None:
    """A bracket's end is in, a parenthesis's is out, and what lies just inside is in."""
    least, most, with_least, with_most = ends(field)
    others = {"max_load": 1e9} if field == "lease" else {"lease": 0.1} if field == "max_load" else {}
    inside = [math.nextafter(least, most), math.nextafter(most, least)]
    outside = [math.nextafter(least, -math.inf), math.nextafter(most, math.inf)]
    (inside if with_least else outside).append(least)
    (inside if with_most else outside).append(most)
    if field == "max_load":
        inside.remove(math.nextafter(least, most))  # it may not be below lease
    for value in inside:
        assert getattr(Policy(**{**others, field: value}), field) == value
    for value in outside:
        with pytest.raises(PolicyError, match=field):
            Policy(**{**others, field: value})


@pytest.mark.parametrize("field", RANGES)
@given(value=st.one_of(st.integers(), st.floats()))
def test_any_number_is_kept_as_a_float_or_refused(field: str, value: float) -> None:
    """There is no third way: no clamping, no surprise."""
    least, most, with_least, with_most = ends(field)
    others = {"max_load": 1e9} if field == "lease" else {"lease": 0.1} if field == "max_load" else {}
    fits = (least <= value if with_least else least < value) and (value <= most if with_most else value < most)
    if field == "max_load":
        fits = fits and value >= 0.1
    try:
        kept = getattr(Policy(**{**others, field: value}), field)
    except PolicyError:
        assert not fits
    else:
        assert fits
        assert type(kept) is float
        assert kept == value


def test_ttl_none_says_what_to_do() -> None:
    """There is no entry for ever: the error says so, and what to write instead."""
    with pytest.raises(PolicyError, match="ttl=None: every entry expires; choose a long ttl"):
        Policy(ttl=None)  # type: ignore[arg-type]


def test_a_load_may_last_as_long_as_its_lease() -> None:
    """max_load is at least lease; the error names both."""
    with pytest.raises(PolicyError, match=r"max_load=5\.0: must be at least lease \(10\.0\)"):
        Policy(lease=10, max_load=5)
    assert Policy(lease=10, max_load=10).max_load == 10


@pytest.mark.parametrize(
    ("field", "choices"), [("on_abandon", ("cancel", "finish")), ("refresh", ("background", "caller"))]
)
def test_a_choice_is_one_of_its_words(field: str, choices: tuple[str, ...]) -> None:
    """The error lists the words."""
    for choice in choices:
        assert getattr(Policy(**{field: choice}), field) == choice  # type: ignore[arg-type]
    for wrong in ("Cancel", "", None, True, ["cancel"], 0):
        with pytest.raises(PolicyError, match=f"{field}=.*: must be one of '{choices[0]}', '{choices[1]}'"):
            Policy(**{field: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [1, 0, None, "yes"])
def test_copy_is_true_or_false(wrong: Any) -> None:
    """Nothing is taken for a bool."""
    with pytest.raises(PolicyError, match=r"copy=.*: must be True or False"):
        Policy(copy=wrong)


@pytest.mark.parametrize("wrong", ["KeyError", [KeyError()], (KeyError, int), (BaseException,), KeyboardInterrupt, 1])
def test_negative_errors_are_exception_classes(wrong: Any) -> None:
    """Instances, names and what ends a program are no answers."""
    with pytest.raises(PolicyError, match=r"negative_errors=.*: must be a tuple of subclasses of Exception"):
        Policy(negative_errors=wrong)


def test_negative_errors_may_be_one_class_or_a_list() -> None:
    """As in an except clause; kept as a tuple."""
    one: Any = KeyError
    many: Any = [KeyError, OSError]
    assert Policy(negative_errors=one).negative_errors == (KeyError,)
    assert Policy(negative_errors=many).negative_errors == (KeyError, OSError)


@pytest.mark.parametrize("ttl", [0.5, 60, 61, 86400])
def test_the_defaults_that_follow_ttl(ttl: float) -> None:
    """stale_if_error and negative_ttl are min(ttl, 60), unless they are given."""
    policy = Policy(ttl=ttl)
    assert policy.stale_if_error == policy.negative_ttl == min(ttl, 60)
    given = Policy(ttl=ttl, stale_if_error=0, negative_ttl=100)
    assert (given.stale_if_error, given.negative_ttl) == (0, 100)


def test_an_override_leads_the_followers_along() -> None:
    """A call's ttl moves what follows it, and leaves what was given."""
    policy = Policy(ttl=600, negative_ttl=7, jitter=0)
    shorter = policy.override({"ttl": 5})
    assert (shorter.ttl, shorter.stale_if_error, shorter.negative_ttl, shorter.jitter) == (5, 5, 7, 0)
    longer = shorter.override({"ttl": 100})
    assert (longer.stale_if_error, longer.negative_ttl) == (60, 7)
    assert policy.override({"stale_if_error": None}).stale_if_error == 60
    assert policy.override({}) == policy


def test_a_hot_rate_switches_refresh_ahead_on() -> None:
    """Unless it is said otherwise; a call can change either."""
    assert not Policy().refresh_ahead
    assert Policy(refresh_ahead=True).hot_rate == 1
    assert Policy(hot_rate=5).refresh_ahead
    assert not Policy(hot_rate=5, refresh_ahead=False).refresh_ahead
    assert Policy().override({"hot_rate": 5}).refresh_ahead
    assert Policy(refresh_ahead=True).override({"hot_rate": 5}) == Policy(hot_rate=5)
    assert not Policy(hot_rate=5).override({"refresh_ahead": False}).refresh_ahead
    with pytest.raises(PolicyError, match="refresh_ahead=1: must be True or False"):
        Policy(refresh_ahead=1)  # type: ignore[arg-type]


def test_a_store_whose_hits_nobody_counts_has_no_popular_entries() -> None:
    """Said when the cache is made, and by the call that asks for it."""
    with pytest.raises(PolicyError, match="refresh_ahead=True: the hits of a store of your own are not counted"):
        Cache(store=cachetools.LRUCache(10), policy=Policy(hot_rate=1))
    with Cache(store=cachetools.LRUCache(10)) as cache, pytest.raises(PolicyError, match="refresh_ahead"):
        cache.get_or_load("k", lambda: 1, refresh_ahead=True)


def test_an_unknown_field_is_a_type_error() -> None:
    """By the constructor and by an override alike; the error lists the fields."""
    with pytest.raises(TypeError, match="tll"):
        Policy(tll=60)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'tll' is not a field of Policy; the fields are beta, copy, .*ttl"):
        Policy().override({"tll": 60})
    with pytest.raises(TypeError, match="following"):
        Policy().override({"following": ()})


def test_a_policy_is_a_value() -> None:
    """Frozen, equal by its fields, hashable, copied and pickled whole, shown as it would be written."""
    policy = Policy(ttl=5, negative_errors=(KeyError,))
    assert policy == Policy(ttl=5.0, negative_errors=(KeyError,)) != Policy(ttl=6)
    assert hash(policy) == hash(Policy(ttl=5, negative_errors=(KeyError,)))
    for twin in (copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert twin == policy
        assert twin.override({"ttl": 7}).negative_ttl == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.ttl = 6  # type: ignore[misc]
    assert repr(policy).startswith("Policy(ttl=5.0, jitter=0.1, ")
    with pytest.raises(TypeError):
        Policy(60)  # type: ignore[misc]


# Overrides by calls.

CALLS = {
    "get_or_load": lambda cache, **policy: cache.get_or_load("k", lambda: 1, **policy),
    "refresh": lambda cache, **policy: cache.refresh("k", lambda: 1, **policy),
    "set": lambda cache, **policy: cache.set("k", 1, **policy),
    "set_many": lambda cache, **policy: cache.set_many({"k": 1}, **policy),
    "cached": lambda cache, **policy: cache.cached("x:{x}", **policy),
    "aget_or_load": lambda cache, **policy: asyncio.run(awaited(cache.aget_or_load, "k", lambda: 1, **policy)),
    "arefresh": lambda cache, **policy: asyncio.run(awaited(cache.arefresh, "k", lambda: 1, **policy)),
    "aset": lambda cache, **policy: asyncio.run(awaited(cache.aset, "k", 1, **policy)),
    "aset_many": lambda cache, **policy: asyncio.run(awaited(cache.aset_many, {"k": 1}, **policy)),
}


async def awaited(method: Any, *args: Any, **policy: Any) -> Any:
    return await method(*args, **policy)


calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
@pytest.mark.parametrize(("field", "value"), [("ttl", 0), ("ttl", -1), ("ttl", math.nan), ("ttl", "60"), ("ttl", True)])
def test_a_call_with_a_wrong_ttl_is_a_policy_error(cache: Cache, call: Any, field: str, value: Any) -> None:
    """Every call that takes a policy checks it before it does anything."""
    with pytest.raises(PolicyError, match=field):
        call(cache, **{field: value})
    assert cache.get("k") is None


@calls
@pytest.mark.parametrize(
    ("field", "value"), [("jitter", 1), ("lease", 61), ("refresh", []), ("negative_errors", [[]]), ("copy", {})]
)
def test_a_call_with_another_wrong_field_is_a_policy_error(cache: Cache, call: Any, field: str, value: Any) -> None:
    """Any field can be given, and is checked, unhashable ones too."""
    with pytest.raises(PolicyError, match=field):
        call(cache, **{field: value})


@calls
def test_a_call_with_an_unknown_field_is_a_type_error(cache: Cache, call: Any) -> None:
    """A misspelt field is never ignored."""
    with pytest.raises(TypeError, match="tll"):
        call(cache, tll=60)
    assert cache.get("k") is None


@pytest.mark.parametrize("how", ["cache", "call", "decorator"])
def test_a_ttl_counts_wherever_it_is_given(how: str) -> None:
    """As the cache's default, with a call, with a decorator."""
    clock = SteppedClock()
    mine: dict[str, Any] = {"ttl": 10, "jitter": 0, "stale_if_error": 0, "beta": 0}
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return len(loads)

    with MemoryCache(clock=clock, policy=Policy(**mine) if how == "cache" else None) as cache:
        options = {} if how == "cache" else mine
        decorated = cache.cached("k", **options)(load)

        def call() -> int:
            return decorated() if how == "decorator" else cache.get_or_load("k", load, **options)

        assert call() == 1
        clock.step(9.9)
        assert call() == 1
        clock.step(0.2)
        assert call() == 2


def test_a_call_changes_no_other_call(cache: Cache) -> None:
    """An override is for one call; the cache's own policy stays."""
    before = cache.policy
    cache.get_or_load("k", lambda: [1], ttl=5, copy=True)
    assert cache.policy is before
    assert cache.get("k") is cache.get("k")
    assert cache.get_or_load("k", lambda: [2], copy=True) is not cache.get("k")


def test_many_different_overrides_do_not_pile_up(cache: Cache) -> None:
    """A caller whose ttl is computed leaves nothing behind."""
    for at in range(1000):
        cache.set("k", 1, ttl=10 + at / 7)
    assert len(cache._policies) <= 256


def test_lookalike_overrides_are_told_apart(cache: Cache) -> None:
    """ttl=1 and ttl=True are one dict key, but not one policy."""
    cache.set("k", 1, ttl=1)
    with pytest.raises(PolicyError, match="ttl=True"):
        cache.set("k", 1, ttl=True)
