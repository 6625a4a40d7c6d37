"""Tier 2 on Redis: the operations of the protocol, written once for both colours.

`io.exchange` is the only thing that may suspend. Reads and scripts that are idempotent per token are retried
once, on a new connection; every operation spends from `io.left`, its flight's budget of Redis time.
"""

import logging
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]

from tiercache.policy import Policy
from tiercache.port import Busy, Cooldown, Found, Granted, Hit, Lease, Port, RemoteDown, RemoteRefused
from tiercache.record import HEADER, Record, unpack
from tiercache.remote import commands as c
from tiercache.remote.breaker import Breaker
from tiercache.remote.links import Unanswered, allowance
from tiercache.remote.resp import Refusal, pack_all

log = logging.getLogger("tiercache")

UNKNOWN_KIND = 255  # stands in for a record that is too large to be fetched


class RedisRemote:
    """What the flow asks of Redis, in one namespace."""

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
        self._now = now
        self._count = count
        self._call_timeout = call_timeout
        self._push_bytes = push_bytes
        self._refused: set[str] = set()

    def remaining(self) -> float:
        """Seconds until Redis is asked again."""
        return self.breaker.remaining()

    # Calling.

    async def call(self, io: Port, commands: list[c.Command], *, retry: bool = True) -> list[Any]:
        """The replies to commands sent in one write; an error reply is a Refusal in its place."""
        replies = await self._send(io, commands, retry)
        missing = [at for at, reply in enumerate(replies) if isinstance(reply, Refusal) and reply.code == "NOSCRIPT"]
        if missing:
            again = await self._send(io, [c.evaluate(commands[at]) for at in missing], retry)
            for at, reply in zip(missing, again, strict=True):
                replies[at] = reply
        return replies

    async def _send(self, io: Port, commands: list[c.Command], retry: bool) -> list[Any]:
        packed = pack_all(commands)
        for last in (False, True) if retry else (True,):
            if not self.breaker.admits():
                raise RemoteDown("the circuit breaker is open")
            timeout = min(self._call_timeout + allowance(len(packed)), io.left)
            if timeout <= 0:
                raise RemoteDown("the call budget is spent")
            started = self._now()
            try:
                replies: list[Any] = await io.exchange(packed, len(commands), timeout)
            except Unanswered as error:
                if error.oversized:
                    raise
                if self.breaker.unanswered():
                    self._count("breaker_opened")
                    log.warning("Redis does not answer (%s): the circuit breaker is open", error)
                if last:
                    raise RemoteDown(str(error)) from None
            else:
                if self.breaker.answered():
                    log.warning("Redis answers again: the circuit breaker is closed")
                return replies
            finally:
                io.left -= self._now() - started
        raise AssertionError("unreachable")

    async def script(self, io: Port, command: c.Command, *, before: c.Command | None = None) -> list[Any]:
        """The reply of one script; RemoteRefused if it, or the command sent before it, was refused."""
        replies = await self.call(io, [command] if before is None else [before, command])
        return self._accepted(replies[-1])  # type: ignore[no-any-return]

    def _accepted(self, reply: Any) -> Any:
        if isinstance(reply, Refusal):
            self.refused(reply.code, str(reply))
        return reply

    def refused(self, code: str, message: str) -> None:
        """Say once per code that Redis refuses, and raise RemoteRefused."""
        if code not in self._refused:
            self._refused.add(code)
            log.warning("Redis refuses with %s (said once): %s", code, message[:200])
        raise RemoteRefused(code, message[:200])

    def failure(self, message: bytes) -> Cooldown:
        """The failure in a message, with the cooldown that it started; an unreadable one is a short one."""
        try:
            name, text, pause = msgpack.unpackb(message, raw=True, max_array_len=8)
            return Cooldown(min(float(pause), 1e9) / 1000, "failed", _text(name), _text(text))
        except Exception:
            self._count("undecodable")
            return Cooldown(0.1, "failed", "unknown", "its description can't be read")

    # Reading.

    async def read(self, io: Port, key: str) -> Found:
        """What stands under the key; a foreign type is absent, a record over the size limit undecodable."""
        name = self.names.value(key)
        try:
            left, data = await self.call(io, [("PTTL", name), ("GET", name)])
        except Unanswered:
            left, data = await self.call(io, [("PTTL", name), ("GETRANGE", name, 0, HEADER.size - 1)])
            return self._oversized(left, data)
        return self._found(left, data)

    async def read_many(self, io: Port, keys: list[str]) -> list[Found]:
        """`read` of many keys in one round trip."""
        names = [self.names.value(key) for key in keys]
        try:
            replies = await self.call(io, [each for name in names for each in (("PTTL", name), ("GET", name))])
        except Unanswered:
            return [await self.read(io, key) for key in keys]
        return [self._found(left, data) for left, data in zip(replies[::2], replies[1::2], strict=True)]

    def _found(self, left: Any, data: Any) -> Found:
        for reply in (left, data):
            if isinstance(reply, Refusal) and reply.code != "WRONGTYPE":
                self.refused(reply.code, str(reply))
        if not isinstance(left, int) or left <= 0 or not isinstance(data, bytes):
            return Found(None, 0.0)
        record = unpack(data)
        if record is None:
            self._count("undecodable")
            return Found(None, 0.0)
        # PTTL and GET are not atomic: the record's own lifetime bounds what an interposed write can add.
        return Found(record, min(left, record.hard_ms) / 1000)

    def _oversized(self, left: Any, head: Any) -> Found:
        if not isinstance(left, int) or left <= 0 or not isinstance(head, bytes) or len(head) < HEADER.size:
            return Found(None, 0.0)
        _, _, codec, _, fresh_ms, hard_ms, delta_ms, _, id = HEADER.unpack(head)
        return Found(Record(UNKNOWN_KIND, codec, 0, fresh_ms, hard_ms, delta_ms, id, b""), left / 1000)

    # The lease.

    def _keys(self, lease: Lease) -> list[str]:
        names, key = self.names, lease.key
        return [names.value(key), names.lease(key), names.failure(key), names.staging(key, lease.token)]

    async def acquire(self, io: Port, lease: Lease, known: bytes, listen: bool) -> Granted | Hit | Busy | Cooldown:
        """One election; with `listen`, a BUSY registers this process's inbox in the same step."""
        lease.attempt += 1
        inbox = self.process.hex() if listen else ""
        args = (lease.token, lease.attempt, inbox, _ms(lease.seconds), known)
        reply = await self.script(io, c.evalsha(c.ACQUIRE, self._keys(lease), *args))
        kind = bytes(reply[0])
        if kind == b"GRANTED":
            lease.attempt = int(reply[1])
            return Granted(lease.attempt)
        if kind == b"HIT":
            return Hit()
        if kind == b"BUSY":
            return Busy(int(reply[1]) / 1000, bytes(reply[2]))
        return Cooldown(int(reply[1]) / 1000, _text(reply[2]), _text(reply[3]), _text(reply[4]))

    async def commit(self, io: Port, lease: Lease, record: Record | None, announce: bool) -> bool:
        """Store a record (hard lifetime 0: only tell the waiters). False: the lease was lost, nothing is stored."""
        assert record is not None
        packed = record.pack()
        inline = len(packed) <= max(c.INLINE, self._push_bytes)
        keys = self._keys(lease)
        before = None if inline else ("SET", keys[3], packed, "PX", _ms(lease.seconds))
        command = c.evalsha(
            c.COMMIT,
            keys,
            lease.token,
            lease.attempt,
            packed if inline else b"",
            record.hard_ms,
            int(len(packed) <= self._push_bytes),
            lease.key,
            1000,
            self.names.invalidations if announce else "",
        )
        reply = await self.script(io, command, before=before)
        if reply[0] == b"REFUSED":
            message = bytes(reply[1]).decode(errors="replace").lstrip("-")
            self.refused(message.split(" ", 1)[0], message)
        return bool(reply[0] == b"OK")

    async def renew(self, io: Port, leases: list[Lease]) -> list[bool]:
        """Renew leases in one round trip. False in the place of each that is lost."""
        replies = await self.call(
            io,
            [c.evalsha(c.RENEW, [self.names.lease(lease.key)], lease.token, _ms(lease.seconds)) for lease in leases],
        )
        return [not isinstance(reply, Refusal) and reply[0] == b"OK" for reply in replies]

    async def release(
        self, io: Port, lease: Lease, error: BaseException | None = None, policy: Policy | None = None
    ) -> float:
        """Give the lease back; with `error`, start its cooldown. Returns the cooldown in seconds."""
        kind, base, most, name, text = "retry", 0, 0, "", ""
        if error is not None and policy is not None:
            kind, name, text = "failed", type(error).__name__, str(error)[:200]
            base, most = _ms(policy.error_backoff), _ms(policy.error_backoff_max)
        args = (lease.token, kind, lease.key, base, most, name, text.encode(errors="replace"))
        reply = await self.script(io, c.evalsha(c.RELEASE, self._keys(lease)[1:], *args))
        return int(reply[1]) / 1000

    # Writes from outside any load.

    async def write_many(self, io: Port, records: list[tuple[str, Record]]) -> None:
        """Replace records in one round trip; RemoteRefused names the first key that was refused."""
        out: list[c.Command] = []
        for key, record in records:
            packed = record.pack()
            inline = len(packed) <= max(c.INLINE, self._push_bytes)
            keys = self._keys(Lease(key, record.id, 0.0))
            if not inline:
                out.append(("SET", keys[3], packed, "PX", 60_000))
            push = int(len(packed) <= self._push_bytes)
            args = (packed if inline else b"", record.hard_ms, push, key, self.names.invalidations, record.id)
            out.append(c.evalsha(c.WRITE, keys, *args))
        for reply in await self.call(io, out, retry=False):
            self._accepted(reply)

    async def invalidate(self, io: Port, keys: list[str], soft: bool) -> None:
        """Invalidate keys in one round trip."""
        n = self.names
        mode = "soft" if soft else "hard"
        replies = await self.call(
            io,
            [c.evalsha(c.INVALIDATE, [n.value(k), n.lease(k), n.failure(k)], mode, k, n.invalidations) for k in keys],
            retry=False,
        )
        for reply in replies:
            self._accepted(reply)


def _text(data: Any) -> str:
    return bytes(data).decode(errors="replace")[:200]


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
