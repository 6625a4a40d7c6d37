"""Runs a history, checks its end, and shortens a failing one."""

import logging
from collections import Counter

from sim.acts import Acts
from sim.history import KEYS, History, Load
from sim.loop import Stuck
from sim.member import Member
from sim.truth import Truth

FALLBACKS = (
    "bypass_nested", "bypass_loop", "bypass_breaker", "bypass_unanswered", "bypass_refused", "commit_rejected",
    "leases_lost", "breaker_opened", "undecodable", "unread", "unverified_served", "dead_wakers", "loads_overdue",
)  # fmt: skip
MEANT = ("commit_rejected", "leases_lost")  # by an invalidation or a write during the load
REST = 45.0  # seconds after the last fault in which every call has ended; a lease of the kind "lasting" lasts longer


class Run(Acts):
    """One history on its way."""

    def run(self) -> list[str]:
        """The violations."""
        history, loop = self.history, self.loop
        with _Errors(self.truth):
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
        if self.history.kind == "crash":
            self._led_after_a_crash()
        left = [name for name in truth.redis.db.names() if truth.redis.db.pttl(name) < 0]
        if left:
            truth.violated(f"keys without a lifetime: {left}")
        # Two reasons to load a fresh record again are meant: `refresh`, and a clock that is a little too careful, for a
        # value that was pushed (it counts from the election) or written between PTTL and GET.
        careful = self.history.settings["push_bytes"] or any(act.what == "write" for act in self.history.acts)
        meant = careful or any(act.what == "call" and act.args[2] == "refresh" for act in self.history.acts)
        if (
            self.history.kind == "good"
            and self.history.policy.beta == 0
            and not self.history.policy.refresh_ahead
            and truth.fresh_granted > truth.torn
            and not meant
        ):
            truth.violated("a fresh record was loaded again")

    def _led_after_a_crash(self) -> None:
        """L2: the lease's remaining time, the jitter and a round trip after a crash, a waiter leads."""
        for key, since, until in self.truth.abandoned:
            waiting = [
                call.start
                for call in self.calls
                if all(answer == b"BUSY" for answer, _ in self.truth.asked[call.member, key].values())
                and call.key == key and call.how == "load" and not call.member.dead and not call.cancelled
                and call.start < until - 0.01 and call.start + call.took > until
            ]  # fmt: skip
            ended = any(since < at <= until + 0.3 for at in self.truth.ended[key])  # by a command under way, or a write
            limit = until + 0.3 + 0.01
            led = any(since < at <= limit for at in self.truth.granted[key])
            if waiting and not led and not ended and self.history.policy.timeout is None:
                self.truth.violated(f"L2: nobody leads {key} by {limit:.4f}, though its holder crashed at {since:.4f}")

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
