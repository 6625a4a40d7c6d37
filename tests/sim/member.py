"""One process of the simulated fleet."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

from sim.loop import Lane, Loop
from sim.network import SimWire
from sim.truth import Truth
from tiercache import Cache, Policy, flow
from tiercache.aio import AioPort
from tiercache.local.flight import Flight
from tiercache.local.following import outcome_of
from tiercache.local.outcome import Outcome
from tiercache.port import Fly, Loader, Place, loading
from tiercache.remote.timer import Timer


class SimTimer(Timer):
    """The shipped timer; its turns are taken in a lane of their own."""

    def __init__(self, member: "Member", io: Callable[[], Any], now: Callable[[], float], tell: Any) -> None:
        super().__init__(member.cache._process.node.remote, io, lambda coro: coro, now, tell)
        self._member = member
        self._look_at = math.inf
        self._turning = False

    def _wake(self) -> None:
        self._schedule(0.0)

    def _schedule(self, delay: float) -> None:
        loop = self._member.loop
        if delay < math.inf and loop.clock + delay < self._look_at:
            self._look_at = loop.clock + delay
            loop.in_lane(self._member.timer_lane, delay, self._look, self._look_at)

    def _look(self, at: float) -> None:
        if at != self._look_at or self._turning:
            return
        self._look_at = math.inf
        pause = self.pause()
        if pause > 0:
            self._schedule(max(pause, 1e-6))  # a float may be too coarse to get any nearer
        else:
            self._turning = True
            self._member.start(self._member.timer_lane, self._turn())

    async def _turn(self) -> None:
        try:
            await self.turn()
        finally:
            self._turning = False
            self._look_at = math.inf
            self._schedule(self.pause())


class TaskPort(AioPort):
    """The shipped port for asyncio, and a look at what it is asked."""

    def __init__(self, member: "Member") -> None:
        super().__init__(member.cache._process.node, member.cache._process.loops())
        self.member = member
        self.own: Flight | None = None  # that it leads, or has joined already

    def follow(self, flight: Flight, seconds: float) -> Any:
        if flight is not self.own:
            self.member.joins(self._task, flight)
        self.own = flight
        return super().follow(flight, seconds)

    async def lead(self, flight: Flight, fly: Fly, policy: Policy) -> Outcome | None:
        self.member.leads(flight)
        return await super().lead(flight, fly, policy)

    def place(self) -> Place:
        member, lane, lives = self.member, self.member.loop_lane, self.member.lives

        def post(act: Any) -> None:
            assert member.lives == lives, "a child runs what its parent appointed"
            member.loop.in_lane(lane, 0.0, lambda: act(TaskPort(member)))

        return post


class ThreadPort(TaskPort):
    """A thread, as far as a coroutine can be one: its loads run in the caller, and nobody cancels them."""

    on_loop = False
    in_frame = True

    async def lead(self, flight: Flight, fly: Fly, policy: Policy) -> Outcome | None:
        self.member.leads(flight)
        self.own = flight
        return await fly(self)

    async def load(self, loader: Loader, flight: Flight, policy: Policy) -> Outcome:
        entered = self.node.inside(flight)
        try:
            return Outcome(await loader())
        except Exception as error:
            return Outcome(error=error)
        finally:
            loading.reset(entered)

    def spawn(self, flight: Flight, fly: Fly) -> bool:
        port = ThreadPort(self.member)
        port.in_frame = False
        self.member.start(self.member.thread(), fly(port))
        return True

    def place(self) -> Place:
        return lambda act: act(ThreadPort(self.member))

    def stop(self) -> None:
        pass


class SimCache(Cache):
    """A cache of a simulated process. A sync call is answered by its value if it hits, else by a coroutine."""

    def __init__(self, member: "Member", **settings: Any) -> None:
        self.member = member
        super().__init__(None, **settings)

    def _clock(self) -> Callable[[], float]:
        return self.member.now

    def _wire_to(self, *unused: Any) -> Any:
        return self.member.wire

    def _aio(self) -> Any:
        self._process.wake()
        return TaskPort(self.member)

    def _blocking(self) -> Any:
        self._process.wake()
        return ThreadPort(self.member)

    async def _aload(self, key: str, loader: Any, policy: Policy, mode: int = 0) -> Any:
        return await outcome_of(flow.get_or_load, self._aio(), self._wire(key), loader, policy, mode)

    def _load(self, key: str, loader: Any, policy: Policy, mode: int = 0) -> Any:
        return outcome_of(flow.get_or_load, self._blocking(), self._wire(key), loader, policy, mode)


class Member:
    """A process: it runs calls in lanes, can be stopped and resumed, crash, and fork."""

    def __init__(self, loop: Loop, truth: Truth, name: str, rng: Random, settings: dict[str, Any]) -> None:
        self.loop, self.truth, self.name = loop, truth, name
        self.offset = 10_000 * rng.random()  # its clock says something else than the others'
        self.dead = False
        self.frozen = 0
        self.resumed = 0.0
        self.lives = 0  # forks
        self.lanes: list[Lane] = []
        self.loop_lane, self.timer_lane = self.thread(), self.thread()
        self.wire = SimWire(loop, truth, self)
        self.joinable: dict[str, Flight] = {}
        self.cache = SimCache(self, namespace=truth.namespace, **settings)
        self.cache._finalizer.detach()
        process = self.cache._process
        node = process.node
        node.draw = process._redis.breaker._draw = lambda: 1.0 - rng.random()
        node.token = lambda: rng.randbytes(16)
        node.timer = SimTimer(self, lambda: ThreadPort(self), node.now, node.tell)
        process.reports = None  # of popularity: no part of the protocol

    def __repr__(self) -> str:
        return self.name

    def now(self) -> float:
        return self.loop.clock + self.offset

    def thread(self) -> Lane:
        lane = Lane()
        lane.frozen, lane.dead = self.frozen > 0, self.dead
        self.lanes.append(lane)
        return lane

    def start(self, lane: Lane, coro: Any) -> Any:
        return self.loop.start(lane, coro)

    def listens(self) -> bool:
        return self.wire.ear is not None and self.wire.ear.heard

    # What the checks see of its flights.

    def refreshes(self, token: bytes) -> Any:
        """The entry that the early refresh with this token is for; None if it has ended, or is no refresh."""
        for flight, leader in self.cache._process.node.leaders.items():
            if flight.early and leader._lease is not None and leader._lease.token == token:
                return flight.seen
        return None

    def leads(self, flight: Flight) -> None:
        other = self.joinable.get(flight.key)
        if other is not None and other is not flight and not other.cut and not other.settled and not flight.cut:
            self.truth.violated(f"S8: {self} has two joinable flights of {flight.key}")
        self.joinable[flight.key] = flight

    def joins(self, own: Any, flight: Flight) -> None:
        if own is None and flight.cut:
            self.truth.violated(f"S8: a caller of {self} joins a flight of {flight.key} that was cut loose")

    # What can happen to it.

    def pause(self) -> None:
        self.frozen += 1
        for lane in self.lanes:
            lane.frozen = True

    def resume(self) -> None:
        self.frozen -= 1
        self.resumed = self.loop.clock
        if not self.frozen:
            for lane in self.lanes:
                self.loop.thaw(lane)

    def crash(self) -> None:
        self.dead = True
        self._stop_everything()

    def _stop_everything(self) -> None:
        for lane in self.lanes:
            lane.dead = True
            lane.queue.clear()
        if self.wire.ear is not None:
            self.wire.ear._break()
            self.wire.ear.closed = True

    def fork(self) -> None:
        """The parent forks and is gone; what goes on is the child."""
        self._stop_everything()
        self.lives += 1
        self.lanes = []
        self.loop_lane, self.timer_lane = self.thread(), self.thread()
        self.joinable.clear()
        self.cache._process.after_fork_in_child()
        node = self.cache._process.node
        node.timer._look_at, node.timer._turning = math.inf, False
        if node.timer._held or node.inbox is not None:
            self.truth.violated(f"S12: the child of {self} has its parent's leases or inbox")
