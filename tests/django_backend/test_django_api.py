"""Django's cache API on `TierCache`, in both colours, held against Django's own backend."""

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import redis
from apps.serving import until
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

pytest.importorskip("django", reason="Django is not installed (extra apps)")

from django.core.cache.backends.base import CacheKeyWarning
from django.core.cache.backends.locmem import LocMemCache
from django.utils.safestring import mark_safe
from django_processes import Async, Sync

from tiercache.contrib.django.backend import FOREVER

Make = Callable[..., Any]


def life(client: redis.Redis, namespace: str, key: str) -> float:
    """Seconds that Redis keeps a key of Django's for."""
    [name] = client.keys(f"tc1:{{{namespace}:*:{key}}}:v")
    return client.pttl(name) / 1000


# Any order of calls.

keys = st.sampled_from(["a", "b", "ä", "k" * 220, "", 1, ("a", 1)])
values = st.sampled_from([None, True, 0, 7, 1.5, "x", b"\0", (1, [2]), {"a": {1}}, ["l"], Ellipsis, mark_safe("<b>")])
timeouts = st.sampled_from([{}, {"timeout": None}, {"timeout": 0}, {"timeout": -5}, {"timeout": 90}, {"timeout": 99.5}])
versions = st.sampled_from([{}, {"version": 1}, {"version": 2}])
some = st.lists(keys, max_size=3)


def step(*names: str, with_timeout: bool = False, **arguments: Any) -> Any:
    return st.tuples(
        st.sampled_from(names), st.builds(dict, **arguments), versions, timeouts if with_timeout else st.just({})
    )


steps = st.lists(
    st.one_of(
        step("set", "add", with_timeout=True, key=keys, value=values),
        step("get_or_set", with_timeout=True, key=keys, default=values),
        step("get", key=keys, default=st.sampled_from([None, "no"])),
        step("touch", with_timeout=True, key=keys),
        step("delete", "has_key", key=keys),
        step("incr", "decr", key=keys, delta=st.sampled_from([1, -3, 0.5])),
        step("incr_version", "decr_version", key=keys),
        step("get_many", "delete_many", keys=some),
        step("set_many", with_timeout=True, data=st.dictionaries(keys, values, max_size=3)),
        st.just(("clear", {}, {}, {})),
    ),
    max_size=30,
)


class Reference(LocMemCache):
    """Django's own, but for one oddity: it says that it deleted what had ended long before."""

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self.has_key(key, version) and super().delete(key, version)


def outcome(face: Any, name: str, arguments: dict[str, Any]) -> Any:
    try:
        answer = getattr(face, name)(**arguments)
    except (TypeError, ValueError) as error:
        return type(error)
    return type(answer), answer


def test_it_answers_as_locmem_does(
    make: Make, amount: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """Any order of calls, in either colour, on either of two processes: the same answers and the same errors."""
    ours, theirs = make(TIMEOUT=100), Reference("parity", {"TIMEOUT": 100})
    colours = [Sync(ours), Async(ours)]
    calls = 0

    @examples(max_examples=amount(150, 3000), deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(steps, st.randoms(use_true_random=False))
    def run(calls_: Any, chance: Any) -> None:
        nonlocal calls
        ours.clear()
        theirs.clear()
        for name, arguments, version, timeout in calls_:
            given = {**arguments, **version, **timeout}
            assert outcome(chance.choice(colours), name, given) == outcome(theirs, name, given), (name, given)
            calls += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        run()
    colours[1].end()
    record_property("calls_compared_with_locmem", calls)


def test_timeouts(cache: Any, client: redis.Redis, namespace: str) -> None:
    """Redis keeps a value as long as Django says; None is a year; incr keeps what is left, touch begins anew."""
    for timeout, seconds in ((50, 50.0), (90.5, 90.5), (None, FOREVER)):
        for write, jitter in (("set", 0), ("add", 0), ("get_or_set", 0.1)):
            cache.delete("k")
            getattr(cache, write)("k", 1, timeout)
            assert seconds * (1 - jitter) - 30 < life(client, namespace, "k") <= seconds
            cache.incr("k")
            assert seconds * (1 - jitter) - 30 < life(client, namespace, "k") <= seconds
    cache.touch("k", 70)
    assert 40 < life(client, namespace, "k") <= 70
    assert cache.get("k") == 2
    cache.set("k", 1)
    assert 270 < life(client, namespace, "k") <= 300
    assert cache.backend.get_backend_timeout(10**12) == FOREVER


def test_values_end(cache: Any, make: Make) -> None:
    """When their time is over, for everybody, and a new one can be added."""
    cache.set("k", "old", 0.2)
    cache.set_many({"a": 1, "b": 2}, 0.2)
    other = make(1)
    until(lambda: not any((cache.has_key("k"), cache.get_many(["a", "b"]), other.get_many(["k", "a", "b"]))))
    assert cache.add("k", "new")
    assert not cache.touch("a")


def test_keys_are_checked_and_warned_of(cache: Any) -> None:
    """By Django's own rules; a key function may return anything."""
    for name, *arguments in (("get", "a b"), ("set", "a b", 1), ("add", "a b", 1), ("delete", "a b"), ("touch", "a b")):
        with pytest.warns(CacheKeyWarning, match="a b"):
            getattr(cache, name)(*arguments)
    for name, argument in (("get_many", ["a b"]), ("set_many", {"a b": 1}), ("delete_many", ["a b"])):
        with pytest.warns(CacheKeyWarning, match="a b"):
            getattr(cache, name)(argument)
    with pytest.warns(CacheKeyWarning, match="a b"), pytest.raises(ValueError, match="not found"):
        cache.incr("a b")
    cache.backend.key_func = lambda key, prefix, version: mark_safe(f"#{key}")
    cache.set("", "with an empty key")
    assert cache.get("") == "with an empty key"
    cache.backend.key_func = lambda key, prefix, version: ""
    cache.set("any", 1)
    assert cache.get("other") == 1


def test_prefixes_versions_and_key_functions(make: Make) -> None:
    """They go by Django's make_key, so entries of one backend are found by another with the same rules."""
    plain, prefixed, second = make(), make(KEY_PREFIX="p"), make(VERSION=2)
    own = make(KEY_FUNCTION=lambda key, prefix, version: f"own-{key}")
    plain.set("k", "plain")
    assert [each.get("k") for each in (prefixed, second, own)] == [None, None, None]
    second.set("k", "second")
    own.set("k", "own")
    prefixed.set("k", "prefixed")
    assert plain.get("k", version=2) == "second"
    assert [each.get("k") for each in (plain, prefixed, second, own)] == ["plain", "prefixed", "second", "own"]


def test_the_failure_of_a_default_is_shared(cache: Any) -> None:
    """It is raised to whoever asks until its pause ends, and nothing is stored."""
    calls: list[int] = []

    def default() -> None:
        calls.append(1)
        raise LookupError("no such row")

    for _ in range(3):
        with pytest.raises(LookupError, match="no such row"):
            cache.get_or_set("k", default)
    assert 1 <= len(calls) < 3
    assert cache.get("k", "no") == "no"


def test_defaults_of_every_kind(make: Make) -> None:
    """A coroutine function, a callable that returns an awaitable, a plain one; sync get_or_set refuses the first."""
    backend = make()

    async def default() -> list[int]:
        await asyncio.sleep(0)
        return [1]

    async def main() -> None:
        assert await backend.aget_or_set("a", default) == [1]
        assert await backend.aget_or_set("b", lambda: default()) == [1]
        assert await backend.aget_or_set("c", lambda: [1]) == [1]
        assert await backend.aget_or_set("d", default, 0) == [1]
        assert await backend.aget_or_set("e", lambda: [1], 0) == [1]
        assert await backend.aget_many("abcde") == {"a": [1], "b": [1], "c": [1]}

    asyncio.run(main())
    with pytest.raises(TypeError, match="aget_or_set"):
        backend.get_or_set("f", default)
