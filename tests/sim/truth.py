"""What really happened in a history, seen from outside, and what must never have happened.

Longer than most files: each judgement reads what the others record, and the order of events is theirs in common.
"""

import math
from collections import defaultdict
from typing import Any, NamedTuple

import msgpack

from sim.leases import ENDS, Leases, Server
from tiercache.local.record import HEADER, VALUE, Record, unpack
from tiercache.remote import commands as c
from tiercache.remote.resp import Refusal

SCRIPTS = ("ACQUIRE", "COMMIT", "RENEW", "RELEASE", "INVALIDATE", "WRITE", "INVALIDATE_IF", "WRITE_IF")
SCRIPT = {getattr(c, name).sha.encode(): name for name in SCRIPTS}
SHAS = list(SCRIPT)
SCRIPT |= {getattr(c, name).text.encode(): name for name in SCRIPTS}


class Life(NamedTuple):
    """Until when a stored value is fresh, and until when it may serve at all, in true time."""

    fresh: float
    hard: float


class Truth:
    """Keeps the order of all events (`seq`), where each value came from, and the violations found."""

    def __init__(self, loop: Any, namespace: str) -> None:
        self.loop = loop
        self.redis = Server(loop.time)
        self.leases = Leases(self.redis, self.violated)
        self.redis._known.update(SHAS)  # SCRIPT FLUSH is a fault of its own
        self.namespace = namespace
        self.seq = 0
        self.violations: list[str] = []
        self.log: list[str] | None = None
        self.serials = 0
        self.origin: dict[int, int] = {}  # serial of a value -> when its load, or its write, began
        self.life: dict[int, Life] = {}  # of stored values
        self.saw: dict[int, int | None] = {}  # serial of a value that a swap brought -> the one it was made from
        self.failures: dict[str, list[float]] = defaultdict(list)  # when they were released
        self.asked: dict[tuple[Any, str], dict[bytes, tuple[bytes, float]]] = defaultdict(dict)  # the last acquires
        self.fences: dict[str, int] = defaultdict(int)  # key -> the last invalidation or write
        self.hard_fences: dict[str, int] = defaultdict(int)
        self.hard: set[int] = set()  # those of them that are no soft invalidations
        self.soft: set[int] = set()
        self.floors: dict[tuple[Any, str], int] = defaultdict(int)  # member, key -> the last one it handled
        self.hard_floors: dict[tuple[Any, str], int] = defaultdict(int)
        self.heard_floors: dict[tuple[Any, str], int] = defaultdict(int)  # the last one of which it knows by name
        self.torn = 0  # reads whose PTTL was of another record than their GET
        self._pttl: dict[tuple[Any, bytes], Any] = {}  # member, name -> what stood there
        self.heard: dict[bytes, set[bytes]] = defaultdict(set)  # token -> attempts whose GRANTED arrived
        self.grants: dict[tuple[bytes, int], int] = {}  # token, attempt -> when
        self.granted: dict[str, list[float]] = defaultdict(list)  # when leases were granted
        self.ended: dict[str, list[float]] = defaultdict(list)  # when they were ended, by whatever
        self.holders: dict[bytes, Any] = {}  # token -> member
        self.cooling: dict[str, float] = {}
        self.abandoned: list[tuple[str, float, float]] = []  # leases of the crashed: key, since when, until when
        self.rejected: dict[int, float] = {}  # serials of values that were not stored, and since when that is known
        self.given_back: set[bytes] = set()
        self.orphans: set[str] = set()  # keys with a lease that is held by nobody until it ends
        self.committed: set[bytes] = set()
        self.resting: dict[
            tuple[Any, str], tuple[float, bytes]
        ] = {}  # early acquires that were told BUSY: until, token
        self.fresh_granted = 0  # leases given though the record was fresh

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.loop.clock:.4f} {what}")

    def note(self, *parts: Any) -> None:
        if self.log is not None:
            self.log.append(f"{self.loop.clock:9.4f} {' '.join(map(str, parts))}")

    def step(self) -> int:
        self.seq += 1
        return self.seq

    # Values.

    def new_value(self, size: int = 0) -> Any:
        """A value that nobody else has; `serial` finds it again."""
        self.serials += 1
        self.origin[self.serials] = self.step()
        return self.serials if not size else [self.serials, b"x" * size]

    @staticmethod
    def serial(value: Any) -> int | None:
        return value[0] if isinstance(value, list) else value

    def _serial(self, record: Record | None) -> int | None:
        return self.serial(msgpack.unpackb(record.payload)) if record and record.kind == VALUE else None

    def _stored(self, data: bytes) -> int | None:
        head = unpack(data)
        serial = self._serial(head)
        if head is None or serial is None:
            return None
        now = self.loop.clock
        self.life[serial] = Life(now + head.fresh_ms / 1000, now + head.hard_ms / 1000)
        return serial

    # The server.

    def execute(self, member: Any, words: list[bytes]) -> Any:
        """One command of a member, executed and judged."""
        self.step()
        script = SCRIPT.get(words[1]) if words[0].startswith(b"EVAL") else None
        if script is None:
            reply = self.redis.execute(*words)
            if words[0] == b"PTTL":
                self._pttl[member, words[1]] = self.redis.db.get(words[1])
            elif words[0] == b"GET":
                self.torn += self._pttl.pop((member, words[1]), reply) != reply
            if self.log is not None:
                self.note("  server:", member, words[0].decode(), "->", _short(reply))
            return reply
        count = int(words[2])
        keys, argv = words[3 : 3 + count], words[3 + count :]
        before = self.redis.db.get(keys[0]) if script in ("ACQUIRE", "COMMIT", "WRITE_IF") else None
        left = self.leases.before(script, keys, argv)
        reply = self.redis.execute(*words)
        if self.log is not None:
            self.note("  server:", member, script, _token(script, argv), "->", _short(reply))
        if not isinstance(reply, Refusal):
            self.leases.after(script, words, keys, left, reply)
            getattr(self, "_" + script.lower())(member, keys, argv, before, reply)
        return reply

    def _acquire(self, member: Any, keys: list[bytes], argv: list[bytes], before: Any, reply: Any) -> None:
        token, _, inbox, _, known = argv
        key = _key(keys[0])
        asked = self.asked[member, key]
        entry = member.refreshes(token) if token not in asked else None
        if entry is not None and known != entry.id:
            self.violated(f"S13: {member} asks early for {key} with another id than that on which the coin fell")
        asked[token] = (reply[0], self.loop.clock)
        if reply[0] == b"GRANTED":
            if token in self.given_back:
                self.orphans.add(key)  # its caller gave up; the release was faster
            self.grants.setdefault((token, reply[1]), self.seq)
            self.holders[token] = member
            self.granted[key].append(self.loop.clock)
            if self.cooling.get(key, 0.0) > self.loop.clock + 0.002:
                self.violated(f"L6: {key} is loaded again before its cooldown has ended")
            record = unpack(before) if before else None
            left = self.redis.db.pttl(keys[0])
            if record is not None and not record.soft_invalid and left - (record.hard_ms - record.fresh_ms) > 100:
                self.fresh_granted += 1
        early = not inbox and known and member.listens()
        if early:
            until, asked = self.resting.get((member, key), (0.0, b""))
            if until > self.loop.clock and token != asked:
                self.violated(f"S13: {member} asks early for {key} again within the lease that it was told of")

    def _commit(self, member: Any, keys: list[bytes], argv: list[bytes], before: Any, reply: Any) -> None:
        token, attempt, _, hard, *_ = argv
        if reply[0] != b"OK" or int(hard) == 0:
            return
        stored = self.redis.db.get(keys[0])
        key = _key(keys[0])
        if stored == before:
            return  # a repeat
        if attempt not in self.heard[token]:
            self.violated(f"S2: {member} commits {key} with an attempt whose grant it never heard")
        if token in self.committed:
            self.violated(f"S2: {member} commits {key} a second time with one token")
        serial = self._stored(stored) if stored is not None else None
        if (
            self.grants[token, int(attempt)] <= self.fences[key]
            or self.origin.get(serial or 0, self.seq) <= self.fences[key]
        ):
            self.violated(f"S3: {member} stores {key}, whose load began before the last invalidation")
        self.committed.add(token)
        self._rested(key)

    def _renew(self, *_: Any) -> None:
        pass

    def _release(self, member: Any, keys: list[bytes], argv: list[bytes], before: Any, reply: Any) -> None:
        self.given_back.add(argv[0])
        if argv[1] == b"failed" and reply[0] == b"OK":
            self.failures[_key(keys[0])].append(self.loop.clock)
            self.cooling[_key(keys[0])] = self.loop.clock + reply[1] / 1000
        if reply[0] == b"OK":
            self._rested(_key(keys[0]))

    def _rested(self, key: str) -> None:
        """The lease of a key has been ended."""
        self.ended[key].append(self.loop.clock)
        for member, name in list(self.resting):
            if name == key:
                del self.resting[member, name]

    def _invalidate(self, member: Any, keys: list[bytes], argv: list[bytes], before: Any, reply: Any) -> None:
        self._fence(_key(keys[0]), soft=argv[0] == b"soft")

    def _write(self, member: Any, keys: list[bytes], argv: list[bytes], before: Any, reply: Any) -> None:
        key = _key(keys[0])
        self._fence(key)
        stored = self.redis.db.get(keys[0])
        serial = self._stored(stored) if stored is not None else None
        if serial is not None:
            self.origin[serial] = self.seq

    def _invalidate_if(self, member: Any, keys: list[bytes], argv: list[bytes], before: Any, reply: Any) -> None:
        if reply[0] == b"OK":
            self._invalidate(member, keys, argv, before, reply)

    def _write_if(self, member: Any, keys: list[bytes], argv: list[bytes], before: Any, reply: Any) -> None:
        if reply[0] != b"OK":
            return
        stood, stands = (record and unpack(record) for record in (before, self.redis.db.get(keys[0])))
        old, new = (self._serial(record) for record in (stood, stands))
        saw = self.saw.get(new)
        over = stood is None or stood.soft_invalid or (old and self.life[old].fresh < self.loop.clock + 0.002)
        if saw != old and not (saw is None and over):
            self.violated(f"{member} swaps {_key(keys[0])} to value {new}: it saw {saw} there and replaced {old}")
        self._write(member, keys, argv, before, reply)

    def _fence(self, key: str, soft: bool = False) -> None:
        self.fences[key] = self.seq
        self.cooling.pop(key, None)
        (self.soft if soft else self.hard).add(self.seq)
        if not soft:
            self.hard_fences[key] = self.seq
        self._rested(key)

    def crashed(self, member: Any) -> None:
        """Whatever leases a process held end by themselves."""
        for name in self.redis.db.names():
            if name.endswith(b":l") and self.holders.get(self.redis.db.hash(name).get(b"t", b"")) is member:
                left = self.redis.db.pttl(name) / 1000
                self.abandoned.append((_key(name), self.loop.clock, self.loop.clock + left))

    def answered(self, member: Any, commands: list[Any], replies: list[Any]) -> None:
        """A process receives the replies to what it sent."""
        for words, reply in zip(commands, replies, strict=True):
            if not isinstance(reply, list):
                continue
            argv = words[3 + int(words[2]) :]
            if reply[0] == b"GRANTED":
                self.heard[argv[0]].add(b"%d" % reply[1])
            elif reply[0] == b"BUSY" and not argv[2] and argv[4] and member.listens():  # an early one
                until = self.loop.clock + reply[1] / 1000 - 0.01 - 2 * member.wire.net.slow
                if self.redis.db.hash(words[4]).get(b"t", b"")[:8] == reply[2]:  # else that lease has ended
                    self.resting[member, _key(words[3])] = (until, argv[0])
            elif reply[0] == b"REJECTED" and argv[2]:
                record = unpack(argv[2])
                if record is not None and record.kind == VALUE:
                    self.rejected[self.serial(msgpack.unpackb(record.payload)) or 0] = self.loop.clock

    # What a process knows.

    def handled(self, member: Any, key: str, seq: int, heard: bool = True) -> None:
        """A process has handled the invalidation or write that was executed at `seq`; not `heard`: by a new epoch."""
        if heard and (seq in self.hard or seq in self.soft):
            self.heard_floors[member, key] = max(self.heard_floors[member, key], seq)
        if seq in self.hard:
            self.hard_floors[member, key] = max(self.hard_floors[member, key], seq)
        if seq in self.hard or seq in self.soft:  # the announcement of a refresh is no fence
            self.floors[member, key] = max(self.floors[member, key], seq)
        self.resting.pop((member, key), None)

    def epoch_began(self, member: Any, seq: int) -> None:
        """Whatever was invalidated before the subscription is handled with it."""
        for fences in (self.fences, self.hard_fences):
            for key, fence in fences.items():
                if fence <= seq:
                    self.handled(member, key, fence, heard=False)
        for name in [each for each in self.resting if each[0] is member]:
            del self.resting[name]

    # The answers.

    def answer(self, call: Any, value: Any, stale: bool, unverified: bool = False) -> None:
        """Judge what a caller got; `call` has member, key, start, floors (at its start) and policy.

        `unverified`: Redis could not be asked. Then an entry of an earlier epoch may serve, as protocol.md says, unless
        the process has heard of the very invalidation.
        """
        serial = self.serial(value)
        if serial is None:
            return
        floor = call.heard_floor if unverified else call.hard_floor if stale else call.floor
        if self.origin[serial] < floor:
            origin = self.origin[serial]
            self.violated(f"S4: {call} got value {serial} (begun at {origin}) though its process knew of {floor}")
        stalled = call.start - call.member.resumed < 0.005  # it may have joined what was decided before the stall
        if call.start > self.rejected.get(serial, math.inf) + 0.002 and not stalled:
            self.violated(f"S2: {call} got value {serial}, whose commit was rejected, from a tier")
        life = self.life.get(serial)
        if life is None:
            return
        policy = call.policy
        end = life.hard if stale else min(life.hard, life.fresh + policy.stale_while_revalidate)
        if call.start > end + 0.002 and not stalled:
            self.violated(f"S5: {call} got value {serial}, which {'ended' if stale else 'was fresh'} until {end:.4f}")

    def failed(self, call: Any) -> None:
        """Judge a LoadFailed: some flight of its process met a cooldown, or waited for the lease that failed."""
        for answer, at in self.asked[call.member, call.key].values():
            if answer == b"COOLDOWN" or (answer == b"BUSY" and any(at <= each for each in self.failures[call.key])):
                return
        self.violated(f"S7: {call} was told of a failure that nobody whom its process waited for had")


def _key(name: bytes) -> str:
    return name[name.index(b":", 4) + 1 : name.rindex(b"}")].decode()


def _token(script: str, argv: list[bytes]) -> str:
    if script in ENDS:
        return ""
    return argv[0][:3].hex() + (f"/{int(argv[1])}" if script in ("ACQUIRE", "COMMIT") else "")


def _short(reply: Any) -> str:
    if isinstance(reply, bytes) and len(reply) > HEADER.size:
        return f"record {reply[30:33].hex()}{' soft' if reply[5] >= 128 else ''}"
    if isinstance(reply, list):
        return " ".join(
            each[:3].hex() if isinstance(each, bytes) and not each.isascii() else str(each) for each in reply
        )
    return str(reply)
