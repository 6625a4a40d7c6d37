"""on_event: what happens, told where it happens; each event beside its counter."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from both import FACES
from test_flow import Gate, in_thread, until

from tiercache import Cache, Policy, events
from tiercache.local.face import Face
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock

POLICY = Policy(ttl=100, jitter=0, beta=0, local_ttl=1000, stale_if_error=50)


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def cache(request: pytest.FixtureRequest, fleet: MemoryRedis) -> Iterator[Any]:
    face = request.param(MemoryCache(fleet, policy=POLICY))
    face.get("woken")  # the inbox's first epoch is over
    yield face
    face.close()


def failing() -> Any:
    raise OSError("secret")


def test_hits_are_told_by_tier(cache: Any) -> None:
    """Every hit of every kind of call, those of the compiled face included."""
    told: list[Any] = []
    cache.set_many({"k": 1, "other": 2})
    end = cache.on_event(told.append)
    cache.get("k")
    cache.get_or_load("k", cache.loader(lambda: 0))
    cache.get_many(["k", "other"])
    cache.clear_local()
    cache.get("k")
    assert told == [
        *[events.Hit("k", "local")] * 3,
        events.Hit("other", "local"),
        events.Hit("k", "remote"),
    ]
    end()
    cache.get("k")
    assert len(told) == 5


def test_a_decorated_functions_hits_are_told(fleet: MemoryRedis) -> None:
    """Also where plain arguments lead to the entry without a key being made."""
    cache, told = MemoryCache(fleet, policy=POLICY), []
    square = cache.cached("square:{x}")(lambda x: x * x)
    square(3)
    cache.on_event(told.append)
    assert [square(3), square(3)] == [9, 9]
    assert told == [events.Hit("square:3", "local")] * 2
    cache.close()


def test_while_nobody_listens_hits_are_answered_by_the_compiled_face(
    fleet: MemoryRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first listener and after the last one no Python method of ours runs for a hit."""
    cache = MemoryCache(fleet, policy=POLICY)
    cache.set("k", 1)
    ends = [cache.on_event(lambda event: None) for _ in range(2)]
    for end in ends:
        end()
    monkeypatch.setattr(MemoryCache, "_get", lambda *_: pytest.fail("it took the longer way"))
    assert cache.get("k") == 1
    assert Face.get(cache, "k") == 1
    cache.close()


def test_a_load_is_told_with_its_time_and_outcome(cache: Any, clock: SteppedClock) -> None:
    """A value, a failure and an answer that is an error; no text of an error, no value."""
    told: list[Any] = []
    cache.on_event(told.append)

    def slow() -> Any:
        clock.step(2)
        return "secret"

    cache.get_or_load("value", cache.loader(slow))
    for key, policy in (("failed", {}), ("negative", {"negative_errors": (OSError,)})):
        with pytest.raises(OSError, match="secret"):
            cache.get_or_load(key, cache.loader(failing), **policy)
    loads = [event for event in told if isinstance(event, events.Load)]
    assert [(load.key, load.outcome, load.error) for load in loads] == [
        ("value", "value", ""), ("failed", "failed", "OSError"), ("negative", "negative", "OSError"),
    ]  # fmt: skip
    assert loads[0].seconds == pytest.approx(2)
    assert [event.key for event in told if isinstance(event, events.Miss)] == ["value", "failed", "negative"]
    assert "secret" not in repr(told)


@pytest.mark.parametrize("why", ["failed", "timeout", "soft_timeout", "revalidating"])
def test_a_stale_answer_says_why(cache: Any, clock: SteppedClock, why: str) -> None:
    """One event for each count of stale_served."""
    told: list[Any] = []
    gate = Gate("new")
    cache.set("k", "old", stale_while_revalidate=40)
    clock.step(120)
    cache.on_event(told.append)
    loader, policy = {
        "failed": (cache.loader(failing), {}),
        "timeout": (gate, {"timeout": 0.01, "on_abandon": "finish"}),
        "soft_timeout": (gate, {"soft_timeout": 0.01}),
        "revalidating": (cache.loader(lambda: "new"), {"stale_while_revalidate": 40}),
    }[why]
    first = in_thread(lambda: cache.get_or_load("k", gate)) if why == "timeout" and cache.name == "sync" else None
    if first is not None:
        assert gate.running.wait(20)
    assert cache.get_or_load("k", loader, **policy) == "old"
    gate.go.set()
    error = "OSError" if why == "failed" else ""
    stale = [event for event in told if isinstance(event, events.StaleServed)]
    assert stale == [events.StaleServed("k", why, error)]  # type: ignore[arg-type]
    assert cache.stats()["stale_served"] == 1
    if why == "revalidating":
        assert events.EarlyRefresh("k") in told
    if first is not None:
        first()


def test_an_invalidation_is_told_where_it_is_made_and_where_it_is_heard(fleet: MemoryRedis) -> None:
    """A call of one's own, and a message."""
    one, other = MemoryCache(fleet, policy=POLICY), MemoryCache(fleet, policy=POLICY)
    told: dict[str, list[Any]] = {"one": [], "other": []}
    other.get("k")
    one.on_event(told["one"].append)
    other.on_event(told["other"].append)
    one.invalidate("k")
    assert events.Invalidated("k", heard=False) in told["one"]
    assert told["other"] == [events.Invalidated("k", heard=True)]
    one.close()
    other.close()


def test_a_value_that_comes_too_late_is_told(fleet: MemoryRedis) -> None:
    """The commit that an invalidation during the load ended."""
    cache, gate, told = MemoryCache(fleet, policy=POLICY), Gate("old"), []
    cache.on_event(told.append)
    call = in_thread(lambda: cache.get_or_load("k", gate))
    assert gate.running.wait(20)
    cache.invalidate("k")
    gate.go.set()
    assert call() == "old"
    assert told.count(events.CommitRejected("k")) == cache.stats()["commit_rejected"] == 1
    cache.close()


def test_a_lost_lease_is_told(make_cache: Callable[..., Cache]) -> None:
    """By the thread that renews leases, once."""
    holder, other, gate, told = make_cache(), make_cache(), Gate("old"), []
    holder.on_event(told.append)
    call = in_thread(lambda: holder.get_or_load("k", gate, lease=0.2))
    assert gate.running.wait(20)
    other.invalidate("k")
    until(lambda: holder.stats()["leases_lost"] == 1 and events.LeaseLost("k") in told)
    gate.go.set()
    call()
    assert told.count(events.LeaseLost("k")) == 1


def test_a_new_epoch_and_the_breaker_are_told(make_cache: Callable[..., Cache]) -> None:
    """A subscription; a Redis that does not answer, and answers again."""
    cache, told = make_cache(), []
    cache.on_event(told.append)
    cache.ping()
    assert told.count(events.Epoch()) == cache.stats()["epochs"] == 1
    down, heard = make_cache("redis://127.0.0.1:1", connect_timeout=0.05), []
    down.on_event(heard.append)
    for _ in range(5):
        down.get_or_load("k", failing_quietly, negative_ttl=0)
    assert heard.count(events.BreakerOpened()) == down.stats()["breaker_opened"] == 1
    down._process._redis.breaker.answered()  # type: ignore[union-attr]
    assert heard.count(events.BreakerClosed()) == 1


def failing_quietly() -> None:
    return None


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_a_callback_that_raises_is_logged_once_and_harms_nobody(
    cache: Any, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The call has its answer, and the other listeners hear everything."""
    told: list[Any] = []

    def bad(event: Any) -> None:
        raise error("a defect of the user's")

    cache.on_event(bad)
    cache.on_event(told.append)
    for _ in range(3):
        assert cache.get_or_load("k", cache.loader(lambda: 1)) == 1
    assert [type(event) for event in told] == [events.Miss, events.Load, events.Hit, events.Hit]
    assert caplog.text.count("A callback of on_event failed") == 1


def test_an_interrupt_in_a_callback_keeps_nobody_from_the_next_refresh(cache: Any) -> None:
    """Ctrl-C while an early refresh is told of: it comes out of the call, and a later call refreshes."""
    interrupts = [events.EarlyRefresh]

    def interrupted(event: Any) -> None:
        if type(event) in interrupts:
            interrupts.clear()
            raise KeyboardInterrupt

    cache.on_event(interrupted)
    assert cache.get_or_load("k", cache.loader(lambda: 1), beta=0) == 1
    cache._process.node.draw = lambda: 0.0
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_load("k", cache.loader(lambda: 2), refresh="caller", beta=1e9)
    assert cache.get_or_load("k", cache.loader(lambda: 3), refresh="caller", beta=1e9) == 3


def test_a_callback_may_use_the_cache(fleet: MemoryRedis) -> None:
    """What it does there is not told, so it can't call itself for ever."""
    cache, told = MemoryCache(fleet, policy=POLICY), []

    def count(event: Any) -> None:
        told.append(event)
        cache.set("last", event.key)

    cache.on_event(count)
    cache.get("k")
    assert told == [events.Epoch(), events.Miss("k")]
    assert cache.get("last") == "k"
    cache.close()


def test_the_callback_runs_where_it_happens(fleet: MemoryRedis) -> None:
    """In the caller's own thread, which holds no lock of ours: other threads go on."""
    cache, threads = MemoryCache(fleet, policy=POLICY), []
    cache.set("k", 1)

    def ask_elsewhere(event: Any) -> None:
        threads.append(threading.current_thread())
        if threads[-1] is threading.main_thread():
            assert in_thread(lambda: cache.get("k"))() == 1

    end = cache.on_event(ask_elsewhere)
    assert cache.get("k") == 1
    end()
    assert threads[0] is threading.current_thread()
    assert len(threads) == 2
    cache.close()


def test_a_long_key_is_told_as_it_was_given(cache: Any) -> None:
    """In Redis it is a digest."""
    told: list[Any] = []
    cache.on_event(told.append)
    for key in ("x" * 300, "#x"):
        cache.get(key)
    assert told == [events.Miss("x" * 300), events.Miss("#x")]


@pytest.mark.parametrize("callback", [None, "print", 7])
def test_what_can_not_be_called_is_a_type_error(cache: Any, callback: Any) -> None:
    """At once."""
    with pytest.raises(TypeError, match="callback"):
        cache.on_event(callback)


def test_a_coroutine_function_is_a_type_error(cache: Any) -> None:
    """Nobody would await it."""

    async def callback(event: Any) -> None: ...

    with pytest.raises(TypeError, match="not async"):
        cache.on_event(callback)
