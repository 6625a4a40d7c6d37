"""lookup: a value, and how it was come by, in both colours."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from both import FACES
from test_flow import Gate, in_thread, until

from tiercache import Cache, LoadFailed, LoadTimeout, Policy, Result
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock

POLICY = Policy(ttl=100, jitter=0, beta=0, local_ttl=1000, stale_if_error=50, error_backoff=30, error_backoff_max=30)


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def cache(request: pytest.FixtureRequest, fleet: MemoryRedis) -> Iterator[Any]:
    face = request.param(MemoryCache(fleet, policy=POLICY))
    yield face
    face.close()


def failing(error: Exception) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


def test_each_source_has_its_name_and_age(cache: Any, fleet: MemoryRedis, clock: SteppedClock) -> None:
    """Loaded, then local, and remote in another process, each as old as it is."""
    other = MemoryCache(fleet, policy=POLICY)
    assert cache.lookup("k", cache.loader(lambda: 1)) == Result(1, "loaded", 0.0, False, None)
    clock.step(10)
    assert cache.lookup("k", cache.loader(lambda: 2)) == Result(1, "local", 10.0, False, None)
    assert other.lookup("k", lambda: 3) == Result(1, "remote", 10.0, False, None)
    clock.step(5)
    assert other.lookup("k", lambda: 3) == Result(1, "local", 15.0, False, None)
    other.close()


def test_a_set_value_has_an_age_too(cache: Any, clock: SteppedClock) -> None:
    """Here, and where it is read back."""
    cache.lookup("another", cache.loader(lambda: 1))
    cache.set("k", 1, ttl=50)
    clock.step(7)
    assert cache.lookup("k", cache.loader(lambda: 2)) == Result(1, "local", 7.0, False, None)
    cache.clear_local()
    assert cache.lookup("k", cache.loader(lambda: 2)) == Result(1, "remote", 7.0, False, None)


def test_the_age_of_what_was_here_before_is_not_made_up(cache: Any) -> None:
    """None, until it is filled again."""
    cache.get_or_load("k", cache.loader(lambda: 1))
    assert cache.lookup("k", cache.loader(lambda: 2)) == Result(1, "local", None, False, None)
    cache.clear_local()
    assert cache.lookup("k", cache.loader(lambda: 2)) == Result(1, "remote", 0.0, False, None)


def test_what_another_process_loads_was_waited_for(cache: Any, fleet: MemoryRedis) -> None:
    """By message or read back: this call waited."""
    holder, gate = MemoryCache(fleet, policy=POLICY), Gate("new")
    first = in_thread(lambda: holder.get_or_load("k", gate))
    assert gate.running.wait(20)
    second = in_thread(lambda: cache.lookup("k", cache.loader(lambda: 0)))
    until(lambda: cache.stats()["waits"] == 1)
    gate.go.set()
    found = second()
    assert (first(), found.value, found.source, found.age) == ("new", "new", "waited", 0.0)
    holder.close()


def test_who_joins_a_load_of_his_process_waited_for_it(fleet: MemoryRedis) -> None:
    """One caller's loader ran; the others waited."""
    cache, gate = MemoryCache(fleet, policy=POLICY), Gate("new")
    calls = [in_thread(lambda: cache.lookup("k", gate)) for _ in range(5)]
    until(lambda: cache.stats()["joins"] == 4)
    gate.go.set()
    assert sorted(call().source for call in calls) == ["loaded", *["waited"] * 4]
    cache.close()


def test_a_stale_value_names_the_failure_that_made_it_serve(cache: Any, clock: SteppedClock) -> None:
    """The loader's own error here; the pause after it elsewhere is a LoadFailed."""
    error = OSError("down")
    cache.lookup("k", cache.loader(lambda: 1))
    clock.step(120)
    found = cache.lookup("k", cache.loader(failing(error)))
    assert (found.value, found.age, found.stale) == (1, 120.0, True)
    assert type(found.error) is OSError
    again = cache.lookup("k", cache.loader(failing(error)))
    assert (again.stale, type(again.error)) == (True, OSError)
    cache._process.node.failures.clear()
    cache.table.clear()
    assert type(cache.lookup("k", cache.loader(failing(error))).error) is LoadFailed


def test_a_stale_value_that_is_refreshed_behind_has_no_error(cache: Any, clock: SteppedClock) -> None:
    """Stale by policy, from either tier."""
    policy = {"stale_while_revalidate": 40}
    cache.lookup("k", cache.loader(lambda: 1), **policy)
    clock.step(120)
    found = cache.lookup("k", cache.loader(lambda: 2), **policy)
    assert (found.value, found.source, found.age, found.stale, found.error) == (1, "local", 120.0, True, None)


def test_a_timeout_is_a_failure_and_a_soft_one_is_not(cache: Any, clock: SteppedClock) -> None:
    """Where they make an old value serve."""
    gate = Gate("new")
    cache.set("k", "old")
    clock.step(120)
    soft = cache.lookup("k", gate, soft_timeout=0.01)
    assert (soft.value, soft.source, soft.stale, soft.error) == ("old", "remote", True, None)
    hard = cache.lookup("k", gate, timeout=0.01)
    assert (hard.value, hard.stale, type(hard.error)) == ("old", True, LoadTimeout)
    gate.go.set()


def test_errors_with_nothing_to_serve_are_raised(cache: Any) -> None:
    """As in get_or_load; bad arguments too."""
    with pytest.raises(OSError, match="down"):
        cache.lookup("k", cache.loader(failing(OSError("down"))))
    with pytest.raises(TypeError, match="'tll' is not a field"):
        cache.lookup("k", cache.loader(lambda: 1), tll=5)
    with pytest.raises(TypeError):
        cache.lookup(7, cache.loader(lambda: 1))


def test_a_copy_is_the_callers_own(cache: Any) -> None:
    """copy=True as in get_or_load."""
    cache.lookup("k", cache.loader(lambda: [1]), copy=True).value.append(2)
    assert cache.lookup("k", cache.loader(lambda: [0]), copy=True).value == [1]


def test_without_redis_it_says_loaded_and_local(clock: SteppedClock) -> None:
    """A cache of one process knows ages as well."""
    with Cache() as cache:
        assert cache.lookup("k", lambda: 1).source == "loaded"
        found = cache.lookup("k", lambda: 2)
    assert (found.value, found.source) == (1, "local")
    assert found.age is not None
    assert found.age >= 0
