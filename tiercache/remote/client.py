"""Tier 2 on Redis: the operations of the protocol, written once for both colours."""

from collections.abc import Callable

import msgpack  # type: ignore[import-untyped]

from tiercache.local.packing import pack_read
from tiercache.local.record import ABSENT, HEADER, Found, Record, found, milliseconds
from tiercache.policy import Policy
from tiercache.port import Busy, Cooldown, Granted, Hit, Lease, Port, RemoteDown, RemoteRefused
from tiercache.remote import answers
from tiercache.remote import commands as c
from tiercache.remote.breaker import Breaker
from tiercache.remote.calls import Calls, Oversized
from tiercache.remote.jobs import Jobs
from tiercache.remote.popularity import hottest
from tiercache.remote.resp import Refusal


class RedisRemote:
    """What the flow asks of Redis, in one namespace.

    Reads and scripts that are idempotent per token are retried once; every operation spends from `io.left`, its
    flight's budget of Redis time.
    """

    shared = True

    def __init__(
        self,
        names: c.Names,
        breaker: Breaker,
        now: Callable[[], float],
        count: Callable[..., None],
        *,
        call_timeout: float,
        push_bytes: int,
    ) -> None:
        self.names = names
        self.breaker = breaker
        self.process = b""  # the process id, set by whoever starts the inbox
        self._count = count
        self._push_bytes = push_bytes
        self._calls = Calls(breaker, now, count, call_timeout)
        self.jobs = Jobs(names, self._calls)

    def remaining(self) -> float:
        """Seconds until Redis is asked again."""
        return self.breaker.remaining()

    def failure(self, message: bytes) -> Cooldown:
        """The failure in a message, with the cooldown that it started; an unreadable one is a short one."""
        try:
            name, text, pause = msgpack.unpackb(message, raw=True, max_array_len=8, max_map_len=0, max_ext_len=0)
            return Cooldown(answers.seconds(pause), "failed", answers.text(name), answers.text(text))
        except Exception:
            self._count("undecodable")
            return Cooldown(0.1, "failed", "unknown", "its description can't be read")

    # Reading.

    async def read(self, io: Port, key: str) -> Found:
        """What stands under the key; a foreign type is absent, a record over the size limit undecodable."""
        name = self.names.value(key)
        try:
            left, data = await self._calls.send(io, pack_read(name), 2)
        except Oversized:
            left, head = await self._calls.call(io, [("PTTL", name), ("GETRANGE", name, 0, HEADER.size - 1)])
            self._readable(left, head)
            return answers.oversized(left, head)
        return self._found(left, data)

    async def read_many(self, io: Port, keys: list[str]) -> list[Found]:
        """`read` of many keys in one round trip."""
        names = [self.names.value(key) for key in keys]
        try:
            replies = await self._calls.send(io, b"".join(map(pack_read, names)), 2 * len(names))
        except Oversized:
            return [await self.read(io, key) for key in keys]
        return [self._found(left, data) for left, data in zip(replies[::2], replies[1::2], strict=True)]

    def _found(self, left: object, data: object) -> Found:
        if type(data) is not bytes:
            self._readable(left, data)
        seen = found(left, data)
        if seen is None:
            self._count("undecodable")
            return ABSENT
        return seen

    def _readable(self, *replies: object) -> None:
        for reply in replies:
            if isinstance(reply, Refusal) and reply.code != "WRONGTYPE":
                raise self._calls.refusal(reply)

    # The lease.

    def _keys(self, lease: Lease) -> list[str]:
        if not lease.names:
            names, key = self.names, lease.key
            lease.names = [names.value(key), names.lease(key), names.failure(key), names.staging(key, lease.token)]
        return lease.names

    async def acquire(self, io: Port, lease: Lease, known: bytes, listen: bool) -> Granted | Hit | Busy | Cooldown:
        """One election; with `listen`, a BUSY registers this process's inbox in the same step.

        An unanswered one may still be executed later, even after an invalidation. So that its lease can't pass for
        the one that was answered, the second try bears an attempt number of its own.
        """
        inbox = self.process.hex() if listen else ""
        for last in (False, True):
            lease.attempt += 1
            args = (lease.token, lease.attempt, inbox, milliseconds(lease.seconds), known)
            try:
                [reply] = await self._calls.call(io, [c.evalsha(c.ACQUIRE, self._keys(lease), *args)], retry=False)
            except RemoteDown:
                if last:
                    raise
            else:
                break
        answer = self._calls.parsed(answers.election, reply)
        if isinstance(answer, Granted):
            lease.attempt = answer.attempt
        return answer

    async def commit(self, io: Port, lease: Lease, record: Record | None, announce: bool) -> bool:
        """Store a record (hard lifetime 0: only tell the waiters). False: the lease was lost, nothing is stored."""
        assert record is not None
        packed = record.pack()
        pushed = len(packed) <= (self._push_bytes if record.hard_ms else max(c.UNKEPT, self._push_bytes))
        inline = pushed or len(packed) <= c.INLINE
        keys = self._keys(lease)
        staged = not inline and record.hard_ms
        commands: list[c.Command] = [("SET", keys[3], packed, "PX", milliseconds(lease.seconds))] if staged else []
        commands.append(
            c.evalsha(
                c.COMMIT,
                keys,
                lease.token,
                lease.attempt,
                packed if inline else b"",
                record.hard_ms,
                int(pushed),
                lease.key,
                1000,
                self.names.invalidations if announce else "",
            )
        )
        replies = await self._calls.call(io, commands)
        verdict, why = self._calls.parsed(answers.verdict, replies[-1])
        if verdict == b"REFUSED":  # by its own store, or because what was to be staged was refused
            raise self._calls.refusal(replies[0] if isinstance(replies[0], Refusal) else Refusal(why))
        return verdict == b"OK"

    async def renew(self, io: Port, leases: list[Lease]) -> list[bool]:
        """Renew leases in one round trip. False in the place of each that is lost."""
        replies = await self._calls.call(
            io,
            [
                c.evalsha(c.RENEW, [self.names.lease(lease.key)], lease.token, milliseconds(lease.seconds))
                for lease in leases
            ],
        )
        return [self._kept(reply) for reply in replies]

    def _kept(self, reply: object) -> bool:
        if isinstance(reply, Refusal) and reply.code == "WRONGTYPE":
            return False
        return self._calls.parsed(answers.verdict, reply)[0] == b"OK"

    async def release(
        self, io: Port, lease: Lease, error: BaseException | None = None, policy: Policy | None = None
    ) -> float:
        """Give the lease back; with `error`, start its cooldown. Returns the cooldown in seconds."""
        kind, base, most, name, text = "retry", 0, 0, "", ""
        if error is not None and policy is not None:
            kind, name, text = "failed", type(error).__name__[:200], _described(error)
            base, most = milliseconds(policy.error_backoff), milliseconds(policy.error_backoff_max)
        args = (lease.token, kind, lease.key, base, most, name, text.encode(errors="replace"))
        [reply] = await self._calls.call(io, [c.evalsha(c.RELEASE, self._keys(lease)[1:], *args)])
        return self._calls.parsed(answers.pause, reply)

    # Writes from outside any load.

    async def write_many(self, io: Port, records: list[tuple[str, Record]]) -> None:
        """Replace records in one round trip; RemoteRefused says what was wrong with the first that was refused."""
        out: list[c.Command] = []
        for key, record in records:
            out += self._write(c.WRITE, key, record)
        for reply in await self._calls.call(io, out, retry=False):
            self._calls.parsed(answers.done, reply)

    def _write(self, script: c.Script, key: str, record: Record, *more: bytes) -> list[c.Command]:
        packed = record.pack()
        inline = len(packed) <= max(c.INLINE, self._push_bytes)
        keys = self._keys(Lease(key, record.id, 0.0))
        push = int(len(packed) <= self._push_bytes)
        args = (packed if inline else b"", max(1, record.hard_ms), push, key, self.names.invalidations, record.id)
        staged: list[c.Command] = [] if inline else [("SET", keys[3], packed, "PX", 60_000)]
        return [*staged, c.evalsha(script, keys, *args, *more)]

    async def replace(self, io: Port, key: str, record: Record | None, known: bytes) -> bool:
        """Write a record, or with None invalidate, if the one with the id `known` still stands there (b"": none)."""
        if record is not None:
            commands = self._write(c.WRITE_IF, key, record, known)
        else:
            keys = self._keys(Lease(key, b"", 0.0))
            commands = [c.evalsha(c.INVALIDATE_IF, keys, "hard", key, self.names.invalidations, known)]
        replies = await self._calls.call(io, commands, retry=False)
        return self._calls.parsed(answers.verdict, replies[-1])[0] == b"OK"

    async def invalidate(self, io: Port, keys: list[str], soft: bool) -> None:
        """Invalidate keys in one round trip."""
        mode = "soft" if soft else "hard"
        commands = [
            c.evalsha(c.INVALIDATE, self._keys(Lease(key, b"", 0.0)), mode, key, self.names.invalidations)
            for key in keys
        ]
        for reply in await self._calls.call(io, commands, retry=False):
            self._calls.parsed(answers.done, reply)

    # Popularity.

    async def report(
        self, io: Port, half_life: float, counted: float, hits: float, gains: list[tuple[str, float]]
    ) -> None:
        """Add to the fleet's popularity. Never sent twice: what is not answered may have been added."""
        words = [word for key, gain in gains for word in (key, repr(gain))]
        command = c.evalsha(c.HOT, self.names.popularity, repr(half_life), repr(counted), repr(hits), *words)
        [reply] = await self._calls.call(io, [command], retry=False)
        if isinstance(reply, Refusal):  # it is said by who knows that no caller is concerned
            raise RemoteRefused(reply.code, str(reply).strip()[:200])
        self._calls.parsed(answers.done, reply)

    async def hottest(self, io: Port, most: int) -> list[tuple[str, float, float]]:
        """The fleet's most popular keys: (key, hits per second, share of all hits)."""
        [reply] = await self._calls.call(io, [c.evalsha(c.HOTTEST, self.names.popularity, most)])
        return self._calls.parsed(hottest, reply)


def _described(error: BaseException) -> str:
    try:
        return str(error)[:200]
    except Exception:  # an exception that can't say what it is
        return ""
