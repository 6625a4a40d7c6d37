"""The thread that renews leases: what it sends and when, what it gives up, and how it ends."""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis_server import RedisServer
from tier2 import Io, Tier2, a_lease

from tiercache.blocking import run
from tiercache.port import Granted, Lease, RemoteDown, RemoteRefused
from tiercache.remote.timer import Timer
from tiercache.testing import SteppedClock


class Remote:
    """Notes what it is asked; `answers` says which leases are kept, or raises."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[str, list[Lease]]] = queue.Queue()
        self.answers: Callable[[list[Lease]], list[bool]] = lambda leases: [True] * len(leases)

    async def renew(self, io: Any, leases: list[Lease]) -> list[bool]:
        try:
            return self.answers(leases)
        finally:
            self.asked.put(("renew", leases))

    async def release(self, io: Any, lease: Lease) -> float:
        try:
            self.answers([lease])
            return 0.0
        finally:
            self.asked.put(("release", [lease]))

    def next(self) -> tuple[str, list[Lease]]:
        return self.asked.get(timeout=30)


class World:
    """A timer under a stepped clock; `look` makes its thread look at the clock."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.remote = Remote()
        self.counts: Counter[str] = Counter()
        self.timer = Timer(self.remote, lambda: Io(lambda *_: []), run, self.clock, self._count)  # type: ignore[arg-type, return-value]

    def _count(self, name: str, *told: object) -> None:
        self.counts[name] += 1

    def hold(self, *leases: Lease, max_load: float = 60.0, overdue: Callable[[], object] | None = None) -> None:
        for lease in leases:
            self.timer.hold(lease, max_load, overdue)

    def step(self, seconds: float) -> None:
        self.clock.step(seconds)
        with self.timer.changed:
            self.timer.changed.notify_all()

    def quiet(self) -> bool:
        """Has the thread looked at the clock, and asked nothing?"""
        probe = a_lease("probe")
        self.timer.abandon(probe)
        return self.remote.next() == ("release", [probe])


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.remote.answers = lambda leases: [True] * len(leases)
    world.timer.close(30)


def leases(count: int, seconds: float = 3.0) -> list[Lease]:
    return [a_lease(f"k{n}", seconds) for n in range(count)]


def test_no_thread_runs_before_there_is_something_to_hold(world: World) -> None:
    """A cache that never loads starts none; the one that is started is a daemon and named."""
    assert world.timer._thread is None
    world.hold(*leases(1))
    thread = world.timer._thread
    assert thread is not None
    assert thread.daemon
    assert thread.name == "tiercache-timer"


def test_all_due_leases_are_renewed_in_one_call_every_third_of_their_lifetime(world: World) -> None:
    """Again and again until they are dropped."""
    held = leases(5)
    world.hold(*held)
    for _ in range(4):
        assert world.quiet()
        world.step(0.9)
        assert world.quiet()
        world.step(0.11)
        assert world.remote.next() == ("renew", held)
    assert world.quiet()
    world.timer.drop(held.pop())
    world.step(1.01)
    assert world.remote.next() == ("renew", held)


def test_a_shorter_lease_wakes_the_thread_that_sleeps_for_a_longer_one() -> None:
    """It is held while the thread waits, and renewed in its own time, by the real clock."""
    remote = Remote()
    timer = Timer(remote, lambda: Io(lambda *_: []), run, time.monotonic, lambda *told: None)  # type: ignore[arg-type, return-value]
    slow, quick, sign = a_lease("slow", 60.0), a_lease("quick", 0.3), a_lease("sign")
    timer.hold(slow, 60.0, None)
    timer.abandon(sign)
    assert remote.next() == ("release", [sign])
    while timer._next < time.monotonic() + 15:  # until it sleeps for `slow` again
        pass
    timer.hold(quick, 60.0, None)
    assert remote.next() == ("renew", [quick])
    timer.close(30)


def test_a_lost_lease_is_said_counted_and_not_renewed_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The others go on."""
    lost, kept = leases(2)
    world.hold(lost, kept)
    world.remote.answers = lambda leases: [lease is not lost for lease in leases]
    with caplog.at_level(logging.WARNING, "tiercache"):
        world.step(1.01)
        assert world.remote.next() == ("renew", [lost, kept])
        assert world.quiet()
        world.step(1.01)
        assert world.remote.next() == ("renew", [kept])
    assert lost.lost
    assert not kept.lost
    assert world.counts["leases_lost"] == 1
    assert caplog.messages == ["The lease of 'k0' was lost while its loader ran"]


@pytest.mark.parametrize("error", [RemoteDown("no answer"), RemoteRefused("LOADING", "LOADING wait")])
def test_a_renewal_without_an_answer_is_tried_again_soon(world: World, error: Exception) -> None:
    """Every tenth of the lease; nothing is lost by that."""
    [lease] = leases(1)

    def fail(leases: list[Lease]) -> list[bool]:
        raise error

    world.remote.answers = fail
    world.hold(lease)
    world.step(1.01)
    for _ in range(5):
        assert world.remote.next() == ("renew", [lease])
        assert world.quiet()
        world.step(0.31)
    assert not lease.lost
    assert not world.counts


def test_a_lease_dropped_while_it_is_renewed_is_not_lost(world: World) -> None:
    """It was committed meanwhile, and LOST is the natural answer."""
    [lease] = leases(1)

    def committed(leases: list[Lease]) -> list[bool]:
        world.timer.drop(lease)
        return [False]

    world.hold(lease)
    world.remote.answers = committed
    world.step(1.01)
    assert world.remote.next() == ("renew", [lease])
    world.remote.answers = lambda leases: [True]
    assert world.quiet()
    assert not lease.lost
    assert not world.counts


def test_an_overdue_load_is_given_up_once_and_not_renewed_any_more(world: World) -> None:
    """`overdue` runs on the timer's thread when `max_load` is over."""
    [lease] = leases(1)
    given_up: queue.Queue[str] = queue.Queue()
    world.hold(lease, max_load=0.5, overdue=lambda: given_up.put(threading.current_thread().name))
    world.step(0.51)
    assert given_up.get(timeout=30) == "tiercache-timer"
    world.step(10)
    assert world.quiet()
    assert given_up.empty()


def test_an_overdue_call_that_raises_ends_no_other_lease(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the thread lives on."""
    [bad, good] = leases(2)
    world.hold(bad, max_load=0.5, overdue=lambda: 1 / 0)
    world.hold(good)
    with caplog.at_level(logging.ERROR, "tiercache"):
        world.step(1.01)
        assert world.remote.next() == ("renew", [good])
        assert world.quiet()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_abandoned_lease_is_given_back_from_the_thread(world: World) -> None:
    """At once, and not renewed; a Redis that is down is no matter."""
    held = leases(2)

    def down(leases: list[Lease]) -> list[bool]:
        raise RemoteDown("no")

    world.hold(*held)
    world.remote.answers = down
    for lease in held:
        world.timer.abandon(lease)
        assert world.remote.next() == ("release", [lease])
    world.step(5)
    assert world.quiet()


def test_a_lease_that_is_due_is_renewed_before_others_are_given_back(world: World) -> None:
    """Giving back may wait for a slow Redis; a renewal may not."""
    due, gone = leases(2)
    world.hold(due)
    assert world.quiet()
    with world.timer.changed:
        world.clock.step(1.01)
        world.timer.abandon(gone)
    assert [world.remote.next(), world.remote.next()] == [("renew", [due]), ("release", [gone])]


def test_holds_knows_the_leases_of_this_process(world: World) -> None:
    """By the id that BUSY names."""
    held, other = leases(2)
    world.hold(held)
    assert world.timer.holds(held.id)
    assert not world.timer.holds(other.id)
    world.timer.drop(held)
    assert not world.timer.holds(held.id)


def test_a_bypass_has_an_end_but_no_lease_to_renew(world: World) -> None:
    """A lease without an end is watched for `max_load` alone."""
    ended = threading.Event()
    world.hold(Lease("k", b"t" * 16, float("inf")), max_load=5.0, overdue=ended.set)
    world.step(4.9)
    assert world.quiet()
    world.step(0.2)
    assert ended.wait(30)


def test_what_was_appointed_is_done_at_its_time_and_in_order(world: World) -> None:
    """On the timer's thread, each once, behind the renewals of the same turn."""
    done: queue.Queue[tuple[str, str]] = queue.Queue()

    def job(name: str) -> Any:
        async def note(io: Any) -> None:
            done.put((name, threading.current_thread().name))

        return note

    world.timer.appoint(world.clock() + 3, job("late"))
    for name in ("first", "second"):
        world.timer.appoint(world.clock() + 1, job(name))
    assert world.quiet()
    assert done.empty()
    world.step(1)
    assert [done.get(timeout=30) for _ in range(2)] == [("first", "tiercache-timer"), ("second", "tiercache-timer")]
    assert world.quiet()
    assert done.empty()
    world.step(2)
    assert done.get(timeout=30)[0] == "late"


def test_a_job_may_appoint_the_next_one_and_one_that_fails_ends_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and leases go on being renewed."""
    [lease] = leases(1)
    done: queue.Queue[int] = queue.Queue()

    async def tick(io: Any) -> None:
        world.timer.appoint(world.clock() + 1, tick)
        done.put(1)
        raise ValueError("no")

    world.timer.appoint(world.clock() + 1, tick)
    with caplog.at_level(logging.ERROR, "tiercache"):
        for _ in range(3):
            world.step(1)
            assert done.get(timeout=30)
        world.hold(lease)
        world.step(1.01)
        assert world.remote.next() == ("renew", [lease])
        assert world.quiet()
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_what_was_appointed_is_not_done_after_close_or_in_a_child(world: World) -> None:
    """Nobody is left for it there."""
    ran = threading.Event()

    async def job(io: Any) -> None:
        ran.set()

    world.timer.appoint(world.clock() + 1, job)
    thread = world.timer._thread
    assert thread is not None
    assert world.quiet()
    world.clock.step(2)  # it is due, but the thread has not looked at the clock yet
    world.timer.close(30)
    world.timer.appoint(world.clock(), job)
    assert not thread.is_alive()
    assert not ran.is_set()
    world.timer.after_fork()
    world.step(2)
    assert world.timer._thread is None
    assert not ran.is_set()


def test_close_gives_every_lease_back_and_ends_the_thread(world: World) -> None:
    """What is abandoned afterwards is left to end by itself; a second close does nothing."""
    held = leases(3)
    world.hold(*held)
    thread = world.timer._thread
    assert thread is not None
    world.timer.close(30)
    assert not thread.is_alive()
    assert {world.remote.next()[1][0].token for _ in held} == {lease.token for lease in held}
    world.timer.abandon(a_lease())
    world.timer.close(30)
    assert world.remote.asked.empty()


def test_close_does_not_wait_for_a_redis_that_hangs(world: World) -> None:
    """Its patience is the timeout it is given."""
    blocked, go_on = threading.Event(), threading.Event()

    def hang(leases: list[Lease]) -> list[bool]:
        blocked.set()
        go_on.wait(30)
        return [True] * len(leases)

    world.remote.answers = hang
    world.hold(*leases(2))
    thread = world.timer._thread
    assert thread is not None
    world.timer.close(0.05)
    assert blocked.wait(30)
    assert thread.is_alive()
    go_on.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_child_has_no_lease_of_its_parent(world: World) -> None:
    """What was held counts as lost there, and a new thread starts with the next lease."""
    [held] = leases(1)
    world.hold(held)
    assert world.quiet()
    parents = world.timer._thread, world.timer.changed, world.timer._held
    world.timer.after_fork()
    assert held.lost
    assert not world.timer.holds(held.id)
    world.hold(a_lease("new", 0.3))
    world.step(0.11)
    assert world.remote.next()[1][0].key == "new"
    world.timer.close(30)
    world.timer._thread, world.timer.changed, world.timer._held = parents  # the parent's thread is here, after all


def test_a_lease_outlives_itself_while_it_is_held(redis_server: RedisServer, namespace: str) -> None:
    """On a real Redis and a real clock: after more than its lifetime the key is still the holder's."""
    tier, lease = Tier2(redis_server.url, namespace), a_lease(seconds=1.0)
    timer = Timer(tier.remote, lambda: Io(tier.links.exchange), run, time.monotonic, lambda *told: None)  # type: ignore[arg-type, return-value]
    renewed = threading.Semaphore(0)
    renew = tier.remote.renew

    async def counted(io: Any, leases: list[Lease]) -> list[bool]:
        kept = await renew(io, leases)
        renewed.release()
        return kept

    tier.remote.renew = counted  # type: ignore[method-assign]
    assert isinstance(tier.acquire(lease), Granted)
    timer.hold(lease, 60, None)
    try:
        for _ in range(4):
            assert renewed.acquire(timeout=30)
        with redis_server.client() as client:
            assert client.hget(tier.names.lease("k"), "t") == lease.token
            timer.close(30)
            assert client.exists(tier.names.lease("k")) == 0
    finally:
        timer.close(30)
        tier.close()
