"""For tests of one's own code: caches in memory that share a fleet, and a clock that only moves when told.

clock = SteppedClock()
fleet = MemoryRedis(clock)
one, other = MemoryCache(fleet), MemoryCache(fleet)   # two processes of one fleet
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]

from tiercache.cache import Cache
from tiercache.local.face import monotonic
from tiercache.policy import Policy
from tiercache.port import Busy, Cooldown, Found, Granted, Hit, Lease, Message, Node, Port
from tiercache.record import Record, unpack

__all__ = ["MemoryCache", "MemoryRedis", "SteppedClock"]


class SteppedClock:
    """Monotonic seconds that move by `step` alone."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def step(self, seconds: float) -> None:
        """Let that much time pass."""
        self._now += seconds


class _Lease:
    def __init__(self, token: bytes, attempt: int, ends: float) -> None:
        self.token, self.attempt, self.ends = token, attempt, ends
        self.waiters: set[bytes] = set()


class MemoryRedis:
    """The server side of the protocol in memory: what the scripts do, with the same answers.

    `clock` (default: the monotonic clock) measures its lifetimes. One lock stands for Redis's one thread.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        # All guarded by `lock`; messages are delivered after it is released, in order.
        self.lock = threading.RLock()
        self._records: dict[str, tuple[bytes, float]] = {}
        self._leases: dict[str, _Lease] = {}
        self._failures: dict[str, tuple[int, float, Cooldown]] = {}
        self._inboxes: dict[bytes, Node] = {}

    def attach(self, process: bytes, node: Node) -> None:
        """Let a process hear messages."""
        with self.lock:
            self._inboxes[process] = node

    def detach(self, process: bytes) -> None:
        with self.lock:
            self._inboxes.pop(process, None)

    # The operations.

    def read(self, key: str) -> Found:
        with self.lock:
            record, left = self._record(key)
        return Found(None, 0.0) if record is None else Found(record, min(left, record.hard_ms / 1000))

    def acquire(self, lease: Lease, process: bytes | None, known: bytes) -> Granted | Hit | Busy | Cooldown:
        with self.lock:
            held = self._lease(lease.key)
            if held is not None and held.token == lease.token:
                held.attempt = max(held.attempt, lease.attempt)
                return Granted(held.attempt)
            record, _ = self._record(lease.key)
            if record is not None and not record.soft_invalid and record.id != known:
                return Hit()
            if held is not None:
                if process is not None:
                    held.waiters.add(process)
                return Busy(held.ends - self.clock(), held.token[:8])
            _, ends, failure = self._failures.get(lease.key, (0, 0.0, None))
            if failure is not None and ends > self.clock():
                return failure._replace(left=ends - self.clock())
            self._leases[lease.key] = _Lease(lease.token, lease.attempt, self.clock() + lease.seconds)
            return Granted(lease.attempt)

    def commit(self, lease: Lease, record: Record, push: int, announce: bool) -> bool:
        with self.lock:
            stored, _ = self._record(lease.key)
            if stored is not None and stored.id == lease.id and not stored.soft_invalid:
                return True
            held = self._lease(lease.key)
            if held is None or held.token != lease.token or held.attempt != lease.attempt:
                if held is not None and held.token == lease.token:
                    self._end(lease.key, "retry", b"")
                return False
            packed = record.pack()
            if record.hard_ms:
                self._records[lease.key] = (packed, self.clock() + record.hard_ms / 1000)
            self._failures.pop(lease.key, None)
            self._end(lease.key, "ready", packed if len(packed) <= push else b"")
            if announce:
                self._announce(lease.key, lease.id)
            return True

    def renew(self, lease: Lease) -> bool:
        with self.lock:
            held = self._lease(lease.key)
            if held is None or held.token != lease.token:
                return False
            held.ends = self.clock() + lease.seconds
            return True

    def release(self, lease: Lease, error: BaseException | None, policy: Policy | None) -> float:
        with self.lock:
            held = self._lease(lease.key)
            if held is None or held.token != lease.token:
                return 0.0
            if error is None or policy is None:
                self._end(lease.key, "retry", b"")
                return 0.0
            count = self._failures.get(lease.key, (0, 0.0, None))[0] + 1
            pause = min(policy.error_backoff_max, policy.error_backoff * 2 ** min(count - 1, 40))
            name, text = type(error).__name__, str(error)[:200]
            self._failures[lease.key] = (count, self.clock() + pause, Cooldown(pause, "failed", name, text))
            self._end(lease.key, "failed", msgpack.packb([name, text, pause * 1000]))
            return float(pause)

    def write(self, key: str, record: Record, push: int) -> None:
        with self.lock:
            packed = record.pack()
            self._records[key] = (packed, self.clock() + record.hard_ms / 1000)
            self._failures.pop(key, None)
            self._end(key, "ready", packed if len(packed) <= push else b"")
            self._announce(key, record.id)

    def invalidate(self, key: str, soft: bool) -> None:
        with self.lock:
            record, left = self._record(key)
            self._failures.pop(key, None)
            if not soft:
                self._records.pop(key, None)
            elif record is not None:
                packed = bytearray(record.pack())
                packed[5] |= 0x80
                self._records[key] = (bytes(packed), self.clock() + left)
            self._end(key, "retry", b"")
            self._announce(key, b"")

    # What is left of things, and who hears of them.

    def _record(self, key: str) -> tuple[Record | None, float]:
        packed, ends = self._records.get(key, (b"", 0.0))
        left = ends - self.clock()
        if left <= 0:
            self._records.pop(key, None)
            return None, 0.0
        return unpack(packed), left

    def _lease(self, key: str) -> _Lease | None:
        held = self._leases.get(key)
        if held is not None and held.ends <= self.clock():
            del self._leases[key]
            return None
        return held

    def _end(self, key: str, kind: str, value: bytes) -> None:
        held = self._leases.pop(key, None)
        for process in held.waiters if held is not None else ():
            if held is not None and (node := self._inboxes.get(process)) is not None:
                node.table.unquiet(key)
                node.slots.put(key, Message(held.token[:8], kind, value))

    def _announce(self, key: str, id: bytes) -> None:
        for node in list(self._inboxes.values()):
            node.cut(key, id)


class _Ear:
    """Stands in for the inbox's thread: messages are delivered by whoever sends them."""

    fault = None
    heard = True

    def __init__(self, leave: Callable[[], None]) -> None:
        self.started = threading.Event()
        self.started.set()
        self._leave = leave

    def close(self, timeout: float) -> None:
        self._leave()

    def after_fork(self) -> None:
        pass


class _MemoryRemote:
    """One process's connection to a MemoryRedis."""

    shared = True

    def __init__(self, memory: MemoryRedis, push_bytes: int) -> None:
        self._memory = memory
        self._push = push_bytes
        self._process = os.urandom(16)

    def attach(self, node: Node) -> None:
        self._memory.attach(self._process, node)
        node.inbox = _Ear(lambda: self._memory.detach(self._process))
        node.table.cut_all()

    def remaining(self) -> float:
        return 0.0

    def failure(self, message: bytes) -> Cooldown:
        name, text, pause = msgpack.unpackb(message)
        return Cooldown(pause / 1000, "failed", name, text)

    async def read(self, io: Port, key: str) -> Found:
        return self._memory.read(key)

    async def read_many(self, io: Port, keys: list[str]) -> list[Found]:
        return [self._memory.read(key) for key in keys]

    async def acquire(self, io: Port, lease: Lease, known: bytes, listen: bool) -> Granted | Hit | Busy | Cooldown:
        lease.attempt += 1
        return self._memory.acquire(lease, self._process if listen else None, known)

    async def commit(self, io: Port, lease: Lease, record: Record | None, announce: bool) -> bool:
        assert record is not None
        return self._memory.commit(lease, record, self._push, announce)

    async def renew(self, io: Port, leases: list[Lease]) -> list[bool]:
        return [self._memory.renew(lease) for lease in leases]

    async def release(
        self, io: Port, lease: Lease, error: BaseException | None = None, policy: Policy | None = None
    ) -> float:
        return self._memory.release(lease, error, policy)

    async def write_many(self, io: Port, records: list[tuple[str, Record]]) -> None:
        for key, record in records:
            self._memory.write(key, record, self._push)

    async def invalidate(self, io: Port, keys: list[str], soft: bool) -> None:
        for key in keys:
            self._memory.invalidate(key, soft)


class MemoryCache(Cache):
    """A cache whose second tier is a MemoryRedis: the protocol as it is, without a server.

    `clock`: whose seconds tier 1 counts (default: the fleet's). The other settings are those of `Cache`.
    """

    def __init__(
        self, memory: MemoryRedis | None = None, *, clock: Callable[[], float] | None = None, **settings: Any
    ) -> None:
        self._memory = memory or MemoryRedis(clock or monotonic)
        self._test_clock = clock or (None if self._memory.clock is monotonic else self._memory.clock)
        self._push_bytes = settings.get("push_bytes", 4096)
        super().__init__(None, **settings)

    def _clock(self) -> Callable[[], float] | None:
        return self._test_clock

    def _remote(self) -> Any:
        return _MemoryRemote(self._memory, self._push_bytes)
