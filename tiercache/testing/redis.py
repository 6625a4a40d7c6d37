"""A Redis in memory that knows what tiercache uses of it, and the wire to it."""

import threading
from collections.abc import Callable
from typing import Any

from tiercache.local.face import monotonic
from tiercache.remote.inbox import Ear, Slots
from tiercache.remote.resp import INCOMPLETE, Refusal, reader
from tiercache.testing.keyspace import Keyspace
from tiercache.testing.scripts import SCRIPTS, TEXTS

Hear = Callable[[bytes, bytes], object]


class MemoryRedis:
    """The server side of the protocol in memory: the same commands, scripts, answers and messages.

    `clock` (default: the monotonic clock) measures its lifetimes, in seconds. One lock stands for Redis's one thread.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        # Guarded by `lock`.
        self.db = Keyspace(clock)
        self._known: set[bytes] = set()  # the scripts that it was told
        self._ears: dict[bytes, list[Hear]] = {}

    def execute(self, *words: bytes) -> Any:
        """The reply to one command: int, bytes, None or a list; an error reply is a `Refusal`, returned."""
        with self.lock:
            try:
                return self._execute(words[0].upper(), list(words[1:]))
            except Refusal as error:
                return error

    def _execute(self, name: bytes, words: list[bytes]) -> Any:
        db = self.db
        match name, words:
            case b"EVALSHA", [sha, count, *rest]:
                if sha not in self._known:
                    raise Refusal("NOSCRIPT No matching script. Please use EVAL.")
                return SCRIPTS[sha](db, self.publish, rest[: int(count)], rest[int(count) :])
            case b"EVAL", [text, *rest] if text in TEXTS:
                self._known.add(TEXTS[text])
                return self._execute(b"EVALSHA", [TEXTS[text], *rest])
            case b"PTTL", [key]:
                return db.pttl(key)
            case b"GET", [key]:
                return db.get(key)
            case b"GETRANGE", [key, start, end]:
                return (db.get(key) or b"")[int(start) : int(end) + 1]
            case b"SET", [key, value, b"PX", ms]:
                db.set(key, value, int(ms))
                return b"OK"
            case b"DEL", keys:
                return db.delete(*keys)
            case b"SCRIPT", [b"FLUSH"]:
                self._known.clear()
                return b"OK"
        raise Refusal(f"ERR unknown command '{name.decode(errors='replace')}', or not with these arguments")

    def publish(self, channel: bytes, payload: bytes) -> None:
        """Tell everybody who hears `channel`."""
        for hear in list(self._ears.get(channel, ())):
            hear(channel, payload)

    def subscribe(self, hear: Hear, *channels: str) -> None:
        """Call `hear(channel, payload)` for each message on the channels."""
        with self.lock:
            for channel in channels:
                self._ears.setdefault(channel.encode(), []).append(hear)

    def unsubscribe(self, hear: Hear) -> None:
        """Call `hear` no more."""
        with self.lock:
            for ears in self._ears.values():
                while hear in ears:
                    ears.remove(hear)


class MemoryWire:
    """One process's way to a MemoryRedis."""

    def __init__(self, redis: MemoryRedis) -> None:
        self._redis = redis

    def links(self) -> "MemoryLinks":
        return MemoryLinks(self._redis)

    def loop_links(self) -> "MemoryLoopLinks":
        return MemoryLoopLinks(self._redis)

    def inbox(
        self, channels: tuple[str, str], slots: Slots, *, draw: Callable[[], float], **hooks: Any
    ) -> "MemoryInbox":
        return MemoryInbox(self._redis, channels, slots, **hooks)


class MemoryLinks:
    """The connections of a process's threads."""

    def __init__(self, redis: MemoryRedis) -> None:
        self._redis = redis

    def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        """What the commands in `packed` are answered."""
        commands = reader()
        commands.feed(packed)
        out = []
        while (command := commands.gets()) is not INCOMPLETE:
            out.append(self._redis.execute(*command))
        assert len(out) == replies
        return out

    def after_fork(self) -> None:
        pass  # there is nothing to close

    def close(self) -> None:
        pass


class MemoryLoopLinks:
    """The connection of an event loop."""

    def __init__(self, redis: MemoryRedis) -> None:
        self._links = MemoryLinks(redis)

    def free(self) -> "MemoryLoopLinks":
        return self

    async def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        return self._links.exchange(packed, replies, timeout)

    def after_fork(self) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryInbox(Ear):
    """Hears by being called: messages are delivered by whoever sends them."""

    def __init__(self, redis: MemoryRedis, channels: tuple[str, str], slots: Slots, **hooks: Any) -> None:
        super().__init__(channels, slots, **hooks)
        self._redis = redis

    def start(self) -> None:
        """Subscribe: a new epoch."""
        self._redis.subscribe(self.take, *self.channels)
        self.subscribed()

    def close(self, timeout: float) -> None:
        """Hear no more."""
        self._redis.unsubscribe(self.take)

    def after_fork(self) -> None:
        pass  # the copy of the server is the child's own
