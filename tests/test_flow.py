"""What happens between a miss and a value, step by step, on one machine's clock and memory."""

import threading
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from tiercache import Cache, LoadTimeout, Policy
from tiercache.port import Message
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock

BYPASSES = ("bypass_nested", "bypass_loop", "bypass_breaker", "bypass_unanswered", "bypass_refused")


def in_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Starts `call` on a thread; the result is a function that waits for its value or raises its error."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(20)
        assert ended, "the call did not end"
        value, error = ended[0]
        if error is not None:
            raise error
        return value

    return result


class Gate:
    """A loader that says when it runs and goes on when it is let."""

    def __init__(self, value: Any = 1) -> None:
        self.value = value
        self.runs = 0
        self.running = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> Any:
        self.runs += 1
        self.running.set()
        assert self.go.wait(20)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread is about to do."""
    tick = threading.Event()
    for _ in range(4000):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("it did not happen")


def test_callers_of_one_process_share_one_load() -> None:
    """Fifty threads, one run of the loader, and nobody went around the lease."""
    cache, gate = MemoryCache(), Gate()
    calls = [in_thread(lambda: cache.get_or_load("k", gate)) for _ in range(50)]
    until(lambda: cache.stats()["joins"] == 49)
    gate.go.set()
    assert [call() for call in calls] == [1] * 50
    assert gate.runs == 1
    assert not any(cache.stats()[name] for name in BYPASSES)


def test_callers_of_two_processes_share_one_load(fleet: MemoryRedis) -> None:
    """The process that does not hold the lease gets the value from the message."""
    one, other, gate = MemoryCache(fleet), MemoryCache(fleet), Gate()
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: other.get_or_load("k", gate))
    until(lambda: other.stats()["waits"] == 1)
    gate.go.set()
    assert (first(), second()) == (1, 1)
    assert gate.runs == 1
    assert other.table.peek("k") is not None


@pytest.mark.parametrize("kind", ["failed", "ready"])
def test_a_message_of_another_lease_is_a_hint_to_look_again(fleet: MemoryRedis, kind: str) -> None:
    """A late failure, or a late value, of a lease before the one that is waited for is not believed."""
    one, other, gate = MemoryCache(fleet), MemoryCache(fleet), Gate()
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: other.get_or_load("k", gate))
    until(lambda: other.stats()["waits"] == 1)
    node = other._process.node
    record, _ = node.values.pack("k", "late", id=b"another.", fresh=60.0, hard=60.0, delta=0.1)
    late = record.pack() if kind == "ready" else msgpack.packb(["ValueError", "late", 100])
    node.slots.put("k", Message(b"another.", kind, late))
    until(lambda: other.stats()["waits"] == 2)
    gate.go.set()
    assert (first(), second()) == (1, 1)


@pytest.mark.parametrize("swr", [0, 5])
def test_a_load_longer_than_its_value_lives_is_one_load_all_the_same(
    fleet: MemoryRedis, clock: SteppedClock, swr: float
) -> None:
    """By the waiter's clock, which counts from its election, the pushed value is over; Redis says that it is not."""
    policy = Policy(ttl=1, jitter=0, beta=0, stale_while_revalidate=swr, lease=30)
    one, other, gate = MemoryCache(fleet, policy=policy), MemoryCache(fleet, policy=policy), Gate()
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: other.get_or_load("k", gate))
    until(lambda: other.stats()["waits"] == 1)
    clock.step(2)
    gate.go.set()
    assert (first(), second()) == (1, 1)
    assert gate.runs == 1
    assert other.stats()["stale_served"] == 0


def test_an_invalidation_during_the_load_keeps_its_value_out(fleet: MemoryRedis) -> None:
    """The callers get what was loaded; no tier keeps it; a later caller loads again."""
    one, other, gate = MemoryCache(fleet), MemoryCache(fleet), Gate("old")
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    other.invalidate("k")
    gate.go.set()
    assert first() == "old"
    assert one.stats()["commit_rejected"] == 1
    assert one.get("k") is None
    assert other.get("k") is None
    assert one.get_or_load("k", lambda: "new") == "new"


def test_a_write_during_the_load_wins(fleet: MemoryRedis) -> None:
    """set replaces what a running load was about to store."""
    one, other, gate = MemoryCache(fleet), MemoryCache(fleet), Gate("loaded")
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    other.set("k", "set")
    assert one.get_or_load("k", lambda: "never") == "set"
    gate.go.set()
    assert first() == "loaded"
    assert one.get("k") == other.get("k") == "set"


def test_a_waiter_leads_once_the_holders_lease_has_ended(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """A holder that crashed delays the others by its lease, and its late commit is rejected."""
    one, other, gate = MemoryCache(fleet), MemoryCache(fleet), Gate("late")
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    clock.step(3.5)  # nobody renewed: the timer sleeps on real time
    assert other.get_or_load("k", lambda: "new") == "new"
    gate.go.set()
    assert first() == "late"
    assert one.stats()["commit_rejected"] + one.stats()["leases_lost"] == 1
    assert one.stats()["commits"] == 0
    assert one.get_or_load("k", lambda: "never") == "new"


def test_a_failure_reaches_the_waiters_of_other_processes(fleet: MemoryRedis) -> None:
    """They raise LoadFailed at once and do not run the loader."""
    one, other, gate = MemoryCache(fleet), MemoryCache(fleet), Gate(ValueError("no"))
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: other.get_or_load("k", gate))
    until(lambda: other.stats()["waits"] == 1)
    gate.go.set()
    with pytest.raises(ValueError, match="no"):
        first()
    with pytest.raises(Exception, match="failed in another process with ValueError: no"):
        second()
    assert gate.runs == 1


def test_followers_get_their_own_copy_of_the_error() -> None:
    """Each follower raises a copy, caused by the original that the leader raises."""
    original = ValueError("no")
    cache, gate = MemoryCache(), Gate(original)
    first = in_thread(lambda: cache.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: cache.get_or_load("k", gate))
    until(lambda: cache.stats()["joins"] == 1)
    gate.go.set()
    with pytest.raises(ValueError, match="no") as led:
        first()
    with pytest.raises(ValueError, match="no") as followed:
        second()
    assert led.value is original
    assert followed.value is not original
    assert followed.value.__cause__ is original


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_loader_passes_the_load_on(interrupt: type[BaseException]) -> None:
    """The interrupt leaves through its own caller; a follower elects again and loads."""
    cache, gate = MemoryCache(), Gate(interrupt())
    first = in_thread(lambda: cache.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: cache.get_or_load("k", lambda: 2))
    until(lambda: cache.stats()["joins"] == 1)
    gate.go.set()
    with pytest.raises(interrupt):
        first()
    assert second() == 2


def test_stop_iteration_survives() -> None:
    """A loader may raise even that."""
    with pytest.raises(StopIteration):
        Cache().get_or_load("k", lambda: next(iter(())))


def test_a_stale_value_is_served_at_once_and_refreshed_behind(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """stale_while_revalidate: the caller never waits for the loader."""
    cache = MemoryCache(fleet, policy=Policy(ttl=10, jitter=0, beta=0, stale_while_revalidate=20))
    cache.get_or_load("k", lambda: "old")
    clock.step(11)
    gate = Gate("new")
    assert cache.get_or_load("k", gate) == "old"
    assert gate.running.wait(10)
    assert cache.get_or_load("k", gate) == "old"
    gate.go.set()
    until(lambda: cache.get("k") == "new")
    assert gate.runs == 1
    assert cache.stats()["stale_served"] >= 2


def test_a_stale_record_in_redis_is_served_and_refreshed_behind(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """The same where this process has no copy yet."""
    policy = Policy(ttl=10, jitter=0, beta=0, stale_while_revalidate=20)
    MemoryCache(fleet, policy=policy).get_or_load("k", lambda: "old")
    clock.step(11)
    cache = MemoryCache(fleet, policy=policy)
    assert cache.get_or_load("k", lambda: "new") == "old"
    until(lambda: cache.get("k") == "new")


def test_a_failing_refresh_keeps_the_old_value_and_rests(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """The old value is served without another attempt until the backoff has passed."""
    policy = Policy(ttl=10, jitter=0, beta=0, stale_while_revalidate=20, error_backoff=2, error_backoff_max=2)
    cache = MemoryCache(fleet, policy=policy)
    cache.get_or_load("k", lambda: "old")
    clock.step(11)
    runs = []

    def fail() -> Any:
        runs.append(1)
        raise OSError("down")

    assert cache.get_or_load("k", fail) == "old"
    until(lambda: cache.stats()["load_failures"] == 1)
    until(lambda: cache._process._refreshers._pending == 0)
    for _ in range(5):
        assert cache.get_or_load("k", fail) == "old"
    assert len(runs) == 1
    clock.step(2.1)
    assert cache.get_or_load("k", fail) == "old"
    until(lambda: len(runs) == 2)


def test_kept_stale_values_serve_for_the_whole_pause(fleet: MemoryRedis) -> None:
    """After keep_stale and a failed load, every call of the pause gets the old value, not only the first."""
    cache = MemoryCache(fleet, policy=Policy(error_backoff=30, error_backoff_max=30))
    cache.get_or_load("k", lambda: "old")
    cache.invalidate("k", keep_stale=True)
    for _ in range(3):
        assert cache.get_or_load("k", lambda: 1 / 0) == "old"
    assert cache.stats()["load_failures"] == 1


def test_every_caller_in_the_pause_gets_its_own_copy_of_the_error() -> None:
    """The exception object is not shared between callers."""
    cache = MemoryCache(policy=Policy(error_backoff=30, error_backoff_max=30))
    raised = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            cache.get_or_load("k", lambda: 1 / 0)
        raised.append(caught.value)
    assert len({id(error) for error in raised}) == 3


def test_a_refresh_with_no_free_thread_is_skipped(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """The value is served, the refresh is left to a later call, and it is counted."""
    policy = Policy(ttl=10, jitter=0, beta=0, stale_while_revalidate=20)
    cache = MemoryCache(fleet, policy=policy, refresh_concurrency=1)
    for key in ("a", "b"):
        cache.get_or_load(key, lambda: "old")
    clock.step(11)
    gate = Gate("new")
    assert cache.get_or_load("a", gate) == "old"
    assert gate.running.wait(10)
    assert cache.get_or_load("b", gate) == "old"
    assert cache.stats()["refreshes_skipped"] == 1
    gate.go.set()
    until(lambda: cache.get("a") == "new")
    until(lambda: cache.get_or_load("b", gate) == "new")


def test_a_value_past_its_freshness_serves_when_the_loader_fails(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """stale_if_error: within it the old value, after it the error."""
    cache = MemoryCache(fleet, policy=Policy(ttl=10, jitter=0, beta=0, stale_if_error=20, error_backoff=0.5))
    cache.get_or_load("k", lambda: "old")
    clock.step(15)
    assert cache.get_or_load("k", lambda: 1 / 0) == "old"
    clock.step(16)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_load("k", lambda: 1 / 0)


def test_refresh_in_the_callers_frame(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """refresh="caller" lets the call that finds the value stale load the new one."""
    policy = Policy(ttl=10, jitter=0, beta=0, stale_while_revalidate=20, refresh="caller")
    cache = MemoryCache(fleet, policy=policy)
    cache.get_or_load("k", lambda: "old")
    clock.step(11)
    assert cache.get_or_load("k", lambda: "new") == "new"


def test_one_process_of_two_refreshes_early_and_the_other_rests(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """BUSY makes the entry quiet: no second election in the same lease period."""
    policy = Policy(ttl=10, jitter=0, beta=0, stale_while_revalidate=20)
    one, other = MemoryCache(fleet, policy=policy), MemoryCache(fleet, policy=policy)
    one.get_or_load("k", lambda: "old")
    other.get("k")
    clock.step(11)
    gate = Gate("new")
    assert one.get_or_load("k", gate) == "old"
    assert gate.running.wait(10)
    for _ in range(20):
        assert other.get_or_load("k", gate) == "old"
    until(lambda: other.stats()["busy"] == 1)
    for _ in range(20):
        assert other.get_or_load("k", gate) == "old"
    assert other.stats()["busy"] == 1
    gate.go.set()
    until(lambda: one.get("k") == "new")
    assert gate.runs == 1


def test_a_timeout_serves_no_value_that_redis_no_longer_has(fleet: MemoryRedis) -> None:
    """What was invalidated while nothing was heard may have been so for a reason: the caller gets LoadTimeout."""
    with MemoryCache(fleet) as cache:
        cache.set("k", "old", ttl=60)
        inbox = cache._process.node.inbox
        inbox.lost("its connection broke")
        fleet.execute(b"DEL", b"tc1:{default:k}:v")
        inbox.subscribed()
        gate = Gate("new")
        load = in_thread(lambda: cache.get_or_load("k", gate))
        assert gate.running.wait(20)
        with pytest.raises(LoadTimeout):
            cache.get_or_load("k", gate, timeout=0.05)
        gate.go.set()
        assert load() == "new"
        assert cache._process.node.leaders == {}


def test_a_failure_serves_no_value_that_redis_no_longer_has(fleet: MemoryRedis) -> None:
    """Neither the call whose loader fails nor those that come before its cooldown has ended."""
    with MemoryCache(fleet) as cache:
        cache.set("k", "old", ttl=60, stale_if_error=60)
        inbox = cache._process.node.inbox
        inbox.lost("its connection broke")
        fleet.execute(b"DEL", b"tc1:{default:k}:v")
        inbox.subscribed()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                cache.get_or_load("k", lambda: 1 // 0, stale_if_error=60, error_backoff=5)
        assert cache.stats()["loads"] == 1


def test_a_refresh_with_a_timeout_does_not_wait_for_a_read(fleet: MemoryRedis) -> None:
    """It joins the flight of a `get` that hangs, which is no load, and gives up in time, having asked once."""
    with MemoryCache(fleet) as cache:
        cache.ping()
        remote, gate = cache._process.node.remote, Gate()
        read = remote.read

        def hangs(*args: Any) -> Any:
            gate()
            return read(*args)

        remote.read = hangs  # type: ignore[method-assign]
        reading = in_thread(lambda: cache.get("k", "nothing"))
        assert gate.running.wait(20)
        refresh = in_thread(lambda: cache.refresh("k", lambda: "new", timeout=0.05))
        with pytest.raises(LoadTimeout):
            refresh()
        assert cache.stats()["joins"] == 1
        gate.go.set()
        assert reading() == "nothing"


def test_a_timeout_serves_the_old_value_that_redis_has(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """Past its freshness, within stale_if_error, to whoever waits no longer for the load."""
    with MemoryCache(fleet) as cache:
        cache.set("k", "old", ttl=60, stale_if_error=60)
        clock.step(61)
        cache.clear_local()
        gate = Gate("new")
        load = in_thread(lambda: cache.get_or_load("k", gate, stale_if_error=60))
        assert gate.running.wait(20)
        assert cache.get_or_load("k", gate, timeout=0.05, stale_if_error=60) == "old"
        gate.go.set()
        assert load() == "new"


def test_a_caller_with_a_timeout_does_not_wait_longer() -> None:
    """timeout bounds the wait for somebody else's load; the load goes on."""
    cache, gate = MemoryCache(), Gate()
    first = in_thread(lambda: cache.get_or_load("k", gate))
    assert gate.running.wait(10)
    with pytest.raises(LoadTimeout, match="'k'"):
        cache.get_or_load("k", gate, timeout=0.05)
    gate.go.set()
    assert first() == 1


def test_a_load_past_max_load_is_given_up() -> None:
    """Its waiters get LoadTimeout, its own sync caller the value, and nothing is cached."""
    cache, gate = MemoryCache(), Gate()
    policy = {"lease": 0.1, "max_load": 0.3}
    first = in_thread(lambda: cache.get_or_load("k", gate, **policy))
    assert gate.running.wait(10)
    second = in_thread(lambda: cache.get_or_load("k", gate, max_load=30))
    until(lambda: cache.stats()["joins"] == 1)
    with pytest.raises(LoadTimeout, match="max_load"):
        second()
    gate.go.set()
    assert first() == 1
    assert cache.get("k") is None
    assert gate.runs == 1


def test_loaders_that_wait_for_each_other_end() -> None:
    """Two threads that load each other's keys wait nested_wait, then load by themselves."""
    cache = MemoryCache(policy=Policy(nested_wait=0.1))
    both = threading.Barrier(2)

    def load(other: str) -> Any:
        both.wait(10)
        return cache.get_or_load(other, lambda: f"inner {other}")

    one = in_thread(lambda: cache.get_or_load("a", lambda: load("b")))
    two = in_thread(lambda: cache.get_or_load("b", lambda: load("a")))
    results = {one(), two()}
    assert results <= {"inner a", "inner b"}
    assert cache.stats()["bypass_nested"] >= 1


def test_loaders_of_two_processes_that_wait_for_each_other_end() -> None:
    """The same across processes, where each waits for the other's lease."""
    fleet, policy = MemoryRedis(), Policy(nested_wait=0.1)
    here, there = MemoryCache(fleet, policy=policy), MemoryCache(fleet, policy=policy)
    both = threading.Barrier(2)

    def load(cache: MemoryCache, other: str) -> Any:
        both.wait(10)
        return cache.get_or_load(other, lambda: f"inner {other}")

    one = in_thread(lambda: here.get_or_load("a", lambda: load(here, "b")))
    two = in_thread(lambda: there.get_or_load("b", lambda: load(there, "a")))
    assert {one(), two()} <= {"inner a", "inner b"}
    assert here.stats()["bypass_nested"] + there.stats()["bypass_nested"] >= 1


def test_get_does_not_wait_for_a_load() -> None:
    """A running load is nothing yet."""
    cache, gate = MemoryCache(), Gate()
    first = in_thread(lambda: cache.get_or_load("k", gate))
    assert gate.running.wait(10)
    assert cache.get("k", "default") == "default"
    assert cache.get_many(["k"]) == {}
    gate.go.set()
    first()


def test_refresh_waits_for_a_load_that_runs() -> None:
    """refresh does not load beside another load of the key."""
    cache, gate = MemoryCache(), Gate()
    first = in_thread(lambda: cache.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: cache.refresh("k", gate))
    until(lambda: cache.stats()["joins"] == 1)
    gate.go.set()
    assert (first(), second()) == (1, 1)
    assert gate.runs == 1


def test_refresh_tells_the_other_processes(fleet: MemoryRedis) -> None:
    """A refreshed value replaces the copies of other processes at once."""
    one, other = MemoryCache(fleet), MemoryCache(fleet)
    one.set("k", 1)
    assert other.get("k") == 1
    assert one.refresh("k", lambda: 2) == 2
    assert other.get("k") == 2
    assert one.table.peek("k").value == 2


def test_a_copy_is_verified_after_local_ttl_without_a_load(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """Past local_ttl the next read looks at Redis, and the loader is not run for that."""
    cache = MemoryCache(fleet, policy=Policy(ttl=1000, local_ttl=5))
    cache.get_or_load("k", lambda: [1])
    value = cache.get("k")
    clock.step(6)
    assert cache.get_or_load("k", lambda: "never") is value
    assert cache.stats()["hits_remote"] == 1
    assert cache.table.peek("k").verify == pytest.approx(clock() + 5, abs=0.01)


@pytest.mark.parametrize("local_ttl", [1000, 5], ids=["from tier 1", "from tier 2"])
def test_an_early_refresh_is_due_near_the_end(fleet: MemoryRedis, clock: SteppedClock, local_ttl: float) -> None:
    """Where the coin falls, the old value is served and one load happens before it expires."""
    cache = MemoryCache(fleet, policy=Policy(ttl=100, jitter=0, local_ttl=local_ttl))
    cache.get_or_load("k", lambda: clock.step(0.5) or "old")
    clock.step(98)
    cache._process.node.draw = lambda: 1e-9
    assert cache.get_or_load("k", lambda: "new") == "old"
    until(lambda: cache.stats()["commits"] == 2)
    until(lambda: cache.get("k") == "new")
    assert cache.stats()["early_refreshes"] == 1
    assert cache.stats()["loads"] == 2


def test_a_new_epoch_makes_the_next_read_ask_redis(fleet: MemoryRedis) -> None:
    """What was published while the inbox was down is not missed for long."""
    cache, writer = MemoryCache(fleet), MemoryCache(fleet)
    cache.get_or_load("k", lambda: 1)
    inbox = cache._process.node.inbox
    inbox.close(0)
    inbox.lost("cut by the test")
    writer.invalidate("k")
    inbox.start()
    assert cache.get_or_load("k", lambda: 2) == 2
