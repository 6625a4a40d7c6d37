"""Runs a history, checks its end, and shortens a failing one."""

import asyncio
import inspect
import logging
from collections import Counter
from random import Random
from typing import Any

from sim.history import KEYS, History, Load
from sim.loop import Loop, Stuck
from sim.member import Member
from sim.network import FENCED
from sim.truth import Truth
from tiercache import LoadFailed, LoadTimeout, ReentrantLoadError, RemoteUnavailable, flow
from tiercache.port import AGAIN

FALLBACKS = (
    "bypass_nested", "bypass_loop", "bypass_breaker", "bypass_unanswered", "bypass_refused", "commit_rejected",
    "leases_lost", "breaker_opened", "undecodable", "unread", "unverified_served", "dead_wakers", "loads_overdue",
)  # fmt: skip
MEANT = ("commit_rejected", "leases_lost")  # by an invalidation or a write during the load
REST = 45.0  # seconds after the last fault in which every call has ended; a lease of the kind "lasting" lasts longer


class Boom(Exception):
    """A loader's own failure."""


class Interrupted(BaseException):
    """What is no Exception: Ctrl-C, SystemExit, a loop that closes."""


class Call:
    """One call of one caller, from outside."""

    def __init__(self, run: "Run", member: Member, key: str, colour: str, how: str, number: int) -> None:
        self.member, self.key, self.colour, self.how, self.number = member, key, colour, how, number
        self.policy = run.history.policy
        self.start = run.loop.clock
        self.floor, self.hard_floor = (floors[member, key] for floors in (run.truth.floors, run.truth.hard_floors))
        self.life = member.lives
        self.ended = False
        self.cancelled = False

    def __repr__(self) -> str:
        return f"call {self.number} of {self.member} ({self.how} {self.key}, {self.colour}, from {self.start:.4f})"


class Run:
    """One history on its way."""

    def __init__(self, history: History, log: bool = False) -> None:
        self.history = history
        self.rng = Random(history.seed)
        self.loop = Loop(self.rng)
        self.truth = Truth(self.loop, "sim")
        if log:
            self.truth.log = []
        self.members: list[Member] = []
        self.calls: list[Call] = []
        self.started = 0  # loaders
        self.errors = _Errors(self.truth)

    def run(self) -> list[str]:
        """The violations."""
        history, loop = self.history, self.loop
        with self.errors:
            try:
                for _ in range(history.members):
                    self.join(0)
                if history.kind == "down":
                    for member in self.members:
                        member.wire.net.down = True
                begin = loop.clock
                for act in history.acts:
                    loop.run_until(begin + act.at)
                    self.truth.note(act)
                    getattr(self, act.what)(act.member, *act.args)
                loop.run_until(begin + history.until)
                self._heal()
                loop.run_until(loop.clock + REST)
                self._ended()
                if history.kind != "down" and history.seed % 4 == 0:
                    self._recovered()
            except Stuck as error:
                self.truth.violated(f"L1: {error}")
            violations = self.truth.violations + loop.errors
            loop.finish()
        return violations

    def _heal(self) -> None:
        self.truth.note("the faults end")
        self.truth.redis.db.full = False
        for member in self.members:
            if self.history.kind != "down":
                member.wire.net.heal()
            while member.frozen:
                member.resume()

    # What a history can do.

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
        floors, hard = self.truth.floors, self.truth.hard_floors
        call.floor, call.hard_floor = floors[call.member, call.key], hard[call.member, call.key]
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
                self.truth.answer(call, value, stale)
        call.ended = True
        self.truth.note(call, *said)
        timeout = self.history.policy.timeout
        if timeout is not None and call.colour == "task" and not self.slowed and load.ends not in KEYS:
            took = self.loop.clock - call.start
            if took > timeout + 2 * 0.5 + 0.3:
                self.truth.violated(f"L1: {call} took {took:.3f} s with a timeout of {timeout} s")

    slowed = False

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
            self.started += 1
            self.truth.loads[key] += 1
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
        self.truth.redis.execute(b"DEL", f"tc1:{{sim:{key}}}:{part}".encode())

    def restart_redis(self, _: int) -> None:
        for name in self.truth.redis.db.names():
            self.truth.redis.db.delete(name)
        self.script_flush(0)
        for number in range(len(self.members)):
            self.cut_inbox(number, 0.0)

    def script_flush(self, _: int) -> None:
        self.truth.redis.execute(b"SCRIPT", b"FLUSH")

    def fill_up(self, _: int, seconds: float) -> None:
        self.truth.redis.db.full = True
        self.loop.in_lane(self.loop.network, seconds, setattr, self.truth.redis.db, "full", False)

    # The end.

    def _ended(self) -> None:
        truth = self.truth
        for call in self.calls:
            excused = self.history.kind == "lasting" and call.key in truth.orphans
            if not (call.ended or call.member.dead or call.life != call.member.lives or excused):
                truth.violated(f"L1: {call} has not ended {REST:.0f} s after the last fault")
        for member in self.members:
            if member.dead:
                continue
            stats = member.cache.stats()
            bypasses = sum(n for name, n in stats.items() if name.startswith("bypass_"))
            if stats["loads"] > stats["grants"] + bypasses:
                truth.violated(
                    f"S9: {member} ran {stats['loads']} loads with {stats['grants']} grants, {bypasses} bypasses"
                )
            if self.history.kind == "good":
                allowed = MEANT if self.truth.fences else ()
                degraded = {name: stats[name] for name in FALLBACKS if stats[name] and name not in allowed}
                if degraded:
                    truth.violated(f"{member} degraded without a fault: {degraded}")
        left = [name for name in truth.redis.db.names() if truth.redis.db.pttl(name) < 0]
        if left:
            truth.violated(f"keys without a lifetime: {left}")
        meant = any(act.what == "call" and act.args[2] == "refresh" for act in self.history.acts)
        if self.history.kind == "good" and self.history.policy.beta == 0 and truth.fresh_granted and not meant:
            truth.violated("a fresh record was loaded again")

    def _recovered(self) -> None:
        """With the faults gone nothing is worked around any more, and an invalidation reaches everybody."""
        living = [number for number, member in enumerate(self.members) if not member.dead]
        for number in living:
            self.call(number, KEYS[0], "task", "load", Load(0.0, "value"), None)  # a breaker's probe, perhaps
        self.loop.run_until(self.loop.clock + 1.0)
        before = {number: _fallbacks(self.members[number]) for number in living}
        self.invalidate(living[0], KEYS[0], False)
        self.loop.run_until(self.loop.clock + 1.0)
        for number in living * 2:
            for key in KEYS:
                self.call(number, key, "task", "load", Load(0.0, "value"), None)
            self.loop.run_until(self.loop.clock + 1.0)
        for call in self.calls[-4 * len(living) :]:
            if not call.ended and call.key not in self.truth.orphans:
                self.truth.violated(f"{call} did not end though nothing was wrong any more")
        for number in living:
            member = self.members[number]
            more = _fallbacks(member) - before[number]
            if more:
                self.truth.violated(f"{member} still works around faults that are gone: {dict(more)}")
            if self.truth.floors[member, KEYS[0]] < self.truth.fences[KEYS[0]]:
                self.truth.violated(f"{member} did not hear of the last invalidation")


def _fallbacks(member: Member) -> "Counter[str]":
    stats = member.cache.stats()
    return Counter({name: stats[name] for name in FALLBACKS if name not in MEANT})


class _Errors(logging.Handler):
    """Every error that the library logs is a violation."""

    def __init__(self, truth: Truth) -> None:
        super().__init__(logging.ERROR)
        self._truth = truth

    def emit(self, record: logging.LogRecord) -> None:
        self._truth.violated(f"logged: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")

    def __enter__(self) -> None:
        log = logging.getLogger("tiercache")
        self._before = log.propagate, log.level
        log.propagate = False
        log.setLevel(logging.ERROR)
        log.addHandler(self)

    def __exit__(self, *exc: object) -> None:
        log = logging.getLogger("tiercache")
        log.removeHandler(self)
        log.propagate, level = self._before
        log.setLevel(level)


def shrink(history: History) -> History:
    """A history as short as can be found that still fails: no act can be left out."""
    at = len(history.acts)
    while at:
        at -= 1
        shorter = history._replace(acts=history.acts[:at] + history.acts[at + 1 :])
        if Run(shorter).run():
            history, at = shorter, len(shorter.acts)
    return history


def described(history: History) -> str:
    """What a failing history does, and how it went."""
    run = Run(history, log=True)
    violations = run.run()
    return "\n".join(
        [
            f"seed {history.seed}: {history.kind}, {history.members} processes, {history.settings}, {history.policy}",
            "",
            "acts:",
            *map(str, history.acts),
            "",
            "what happened:",
            *(run.truth.log or []),
            "",
            "violations:",
            *violations,
        ]
    )
