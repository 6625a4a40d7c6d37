"""What can happen in a history: calls, writes and faults. Each method is named by `history.Act.what`."""

import asyncio
import inspect
import math
from random import Random
from typing import Any

from sim.history import KEYS, History, Load
from sim.loop import Loop
from sim.member import Member
from sim.network import FENCED
from sim.truth import Truth
from tiercache import LoadFailed, LoadTimeout, ReentrantLoadError, RemoteUnavailable, flow
from tiercache.contrib.swap import ABSENT, Step, swap
from tiercache.local.outcome import AGAIN


class Boom(Exception):
    """A loader's own failure."""


class Interrupted(BaseException):
    """What is no Exception: Ctrl-C, SystemExit, a loop that closes."""


class Call:
    """One call of one caller, from outside."""

    def __init__(self, world: "Acts", member: Member, key: str, colour: str, how: str, number: int) -> None:
        self.member, self.key, self.colour, self.how, self.number = member, key, colour, how, number
        self.policy = world.history.policy
        self.start = world.loop.clock
        self.knows(world.truth)
        self.life = member.lives
        self.ended = False
        self.took = math.inf
        self.cancelled = False

    def knows(self, truth: Truth) -> None:
        """What its process knows of invalidations when it begins."""
        of = self.member, self.key
        self.floor, self.hard_floor, self.heard_floor = truth.floors[of], truth.hard_floors[of], truth.heard_floors[of]

    def __repr__(self) -> str:
        return f"call {self.number} of {self.member} ({self.how} {self.key}, {self.colour}, from {self.start:.4f})"


class Acts:
    """The fleet of one history, and what is done to it."""

    def __init__(self, history: History, log: bool = False) -> None:
        self.history = history
        self.rng = Random(history.seed)
        self.loop = Loop(self.rng)
        self.truth = Truth(self.loop, "sim")
        if log:
            self.truth.log = []
        self.members: list[Member] = []
        self.calls: list[Call] = []
        self.slowed = False

    def join(self, _: int) -> None:
        """A process joins the fleet."""
        settings = {**self.history.settings, "policy": self.history.policy}
        self.members.append(Member(self.loop, self.truth, f"p{len(self.members)}", self.rng, settings))

    def call(self, number: int, key: str, colour: str, how: str, load: Load, cancel: float | None) -> None:
        member = self.members[number]
        if member.dead:
            return
        call = Call(self, member, key, colour, how, len(self.calls))
        self.calls.append(call)
        lane = member.thread() if colour == "thread" else member.loop_lane
        task = member.start(lane, self._call(call, load))
        if cancel is not None and colour == "task":
            self.loop.in_lane(lane, cancel, self._cancel, call, task)

    def _cancel(self, call: Call, task: Any) -> None:
        if not task.done():
            call.cancelled = True
            self.truth.note(call, "is cancelled by its caller")
            task.cancel()

    async def _call(self, call: Call, load: Load) -> None:
        call.start = self.loop.clock
        call.knows(self.truth)
        unverified = _unverified(call)
        self.truth.note(call, "begins")
        try:
            value, stale = await self._ask(call, load)
        except asyncio.CancelledError:
            said: tuple[Any, ...] = ("ends cancelled",)
            if not call.cancelled:
                self.truth.violated(f"S10: {call} was cancelled, but nobody cancelled it")
        except Exception as error:
            said = ("raises", repr(error))
            self._refused(call, error)
        except Interrupted:
            said = ("is interrupted",)
        else:
            said = ("got", "stale" if stale else "", "nothing" if value is AGAIN else self.truth.serial(value))
            if value is not AGAIN:
                self.truth.answer(call, value, stale, _unverified(call) > unverified)
        call.ended = True
        self.truth.note(call, *said)
        call.took = self.loop.clock - call.start
        if self.history.kind == "down" and load.ends not in KEYS and call.took > self._loads(call.key) * 2 + 0.3:
            self.truth.violated(f"L4: {call} took {call.took:.3f} s though nothing can be waited for")
        timeout = self.history.policy.timeout
        bounded = timeout is not None and call.colour == "task" and not self.slowed and load.ends not in KEYS
        if bounded and call.took > timeout + 2 * 0.5 + 0.3:
            self.truth.violated(f"L1: {call} took {call.took:.3f} s with a timeout of {timeout} s")

    def _loads(self, key: str) -> int:
        """How many loads a call may wait for where Redis is down: another's, its own, and those of the interrupted."""
        calls = [act.args for act in self.history.acts if act.what == "call"]
        return 2 + sum(name == key and load.ends == "interrupt" for name, _, _, load, _ in calls)

    async def _ask(self, call: Call, load: Load) -> tuple[Any, bool]:
        cache, key, policy = call.member.cache, call.key, self.history.policy
        loader = self._loader(call, key, load)
        if call.how == "get":
            port = cache._aio() if call.colour == "task" else cache._blocking()
            outcome = await flow.get(port, key, policy)
        elif call.how == "refresh":
            outcome = await (cache._aload if call.colour == "task" else cache._load)(key, loader, policy, 2)
        else:
            ask = cache.aget_or_load if call.colour == "task" else cache.get_or_load
            outcome = ask(key, loader)
            if inspect.isawaitable(outcome):
                outcome = await outcome
        if not isinstance(outcome, flow.Outcome):
            return outcome, False
        if outcome.error is not None:
            raise outcome.error
        return (outcome, False) if outcome is AGAIN else (outcome.value, outcome.stale)

    def _loader(self, call: Call, key: str, load: Load) -> Any:
        member = call.member

        async def loader() -> Any:
            value = self.truth.new_value(5000 if load.ends == "large" else 0)
            serial = self.truth.serial(value)
            self.truth.note(" ", member, "loads", key, serial, "by", call)
            if load.ends in KEYS:
                await self._nested(call, load)
            if load.seconds:
                await asyncio.sleep(load.seconds)
            self.truth.note(" ", member, "has loaded", key, serial, load.ends)
            if load.ends == "raise":
                raise Boom(key)
            if load.ends == "interrupt":
                raise Interrupted
            return None if load.ends == "none" else value

        return loader

    async def _nested(self, call: Call, load: Load) -> None:
        other = Call(self, call.member, load.ends, call.colour, "load", call.number)
        back = Load(0.01, call.key if self.rng.random() < 0.3 else "value")
        try:
            value, stale = await self._ask(other, back)
        except (Boom, LoadFailed, LoadTimeout, ReentrantLoadError):
            return
        self.truth.answer(other, value, stale)

    def _refused(self, call: Call, error: Exception) -> None:
        nested = any(act.what == "call" and act.args[3].ends in KEYS for act in self.history.acts)
        if isinstance(error, LoadFailed):
            self.truth.failed(call)
        elif isinstance(error, LoadTimeout):
            if self.history.policy.timeout is None and self.history.policy.max_load > 4:
                self.truth.violated(f"L1: {call} was told {error!r}")
        elif not isinstance(error, Boom) and not (nested and isinstance(error, ReentrantLoadError)):
            self.truth.violated(f"{call} raised {error!r}")

    def invalidate(self, number: int, key: str, soft: bool) -> None:
        cache = self.members[number].cache
        self._write(number, key, lambda: cache.ainvalidate(key, keep_stale=soft))

    def write(self, number: int, key: str, size: int) -> None:
        cache, value = self.members[number].cache, self.truth.new_value(size)
        policy = self.history.policy
        self._write(number, key, lambda: cache.aset(key, value, ttl=policy.ttl, stale_if_error=policy.stale_if_error))

    def swap(self, number: int, key: str, size: int) -> None:
        """Compare and swap: every fourth value is removed, the others are followed by a new one."""
        cache, policy = self.members[number].cache, self.history.policy

        def decide(value: Any, left: float) -> Step:
            seen = None if value is ABSENT else self.truth.serial(value)
            if seen is not None and seen % 4 == 0:
                return Step(seen, ABSENT)
            new = self.truth.new_value(size)
            self.truth.saw[self.truth.serials] = seen
            return Step(seen, new, policy.ttl)

        self._write(number, key, lambda: swap(cache._aio(), key, decide))

    def _write(self, number: int, key: str, operation: Any) -> None:
        member = self.members[number]
        if not member.dead:
            member.start(member.loop_lane, self._written(member, key, operation))

    async def _written(self, member: Member, key: str, operation: Any) -> None:
        try:
            await operation()
        except RemoteUnavailable:
            pass
        else:
            self.truth.handled(member, key, FENCED.get())

    def crash(self, number: int) -> None:
        if sum(not member.dead for member in self.members) > 1:
            self.truth.crashed(self.members[number])
            self.members[number].crash()

    def fork(self, number: int) -> None:
        member = self.members[number]
        if not member.dead:
            member.fork()

    def pause(self, number: int, seconds: float) -> None:
        member = self.members[number]
        self.slowed = True
        member.pause()
        self.loop.in_lane(self.loop.network, seconds, lambda: member.frozen and member.resume())

    def cut_inbox(self, number: int, notice: float) -> None:
        ear = self.members[number].wire.ear
        if ear is not None and not self.members[number].dead:
            ear.cut(notice)

    def _net(self, number: int, seconds: float, **conditions: Any) -> None:
        net = self.members[number].wire.net
        for name, value in conditions.items():
            setattr(net, name, value)
        self.loop.in_lane(self.loop.network, seconds, net.heal)

    def cut_off(self, number: int, seconds: float) -> None:
        self._net(number, seconds, down=True)
        self.cut_inbox(number, seconds / 2)

    def lose(self, number: int, seconds: float, requests: float, replies: float) -> None:
        self._net(number, seconds, lose_request=requests, lose_reply=replies)

    def slow(self, number: int, seconds: float, calls: float, messages: float) -> None:
        self.slowed = True
        self._net(number, seconds, slow=calls, slow_messages=messages)

    def evict(self, _: int, key: str, part: str) -> None:
        name = f"tc1:{{sim:{key}}}:{part}".encode()
        self.truth.redis.execute(b"DEL", name)
        self.truth.leases.lost(name)
        if part == "f":
            self.truth.cooling.pop(key, None)

    def restart_redis(self, _: int) -> None:
        for name in self.truth.redis.db.names():
            self.truth.redis.db.delete(name)
            self.truth.leases.lost(name)
        self.truth.cooling.clear()
        self.script_flush(0)
        for number in range(len(self.members)):
            self.cut_inbox(number, 0.0)

    def script_flush(self, _: int) -> None:
        self.truth.redis.execute(b"SCRIPT", b"FLUSH")

    def fill_up(self, _: int, seconds: float) -> None:
        self.truth.redis.db.full = True
        self.loop.in_lane(self.loop.network, seconds, setattr, self.truth.redis.db, "full", False)


def _unverified(call: Call) -> int:
    """How often its process has served an entry because Redis could not be asked."""
    return int(call.member.cache.stats()["unverified_served"])
