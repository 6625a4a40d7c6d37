"""The process's ear: a thread that hears which values are ready and which keys are invalid.

Every successful subscription starts a new epoch, because what was published while nobody listened is lost.
Redis-py's PubSub reconnects without saying so, hence a bare connection.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]

from tiercache.port import Message, Slot
from tiercache.remote.links import Link, Unanswered
from tiercache.remote.resp import pack

log = logging.getLogger("tiercache")

IDLE = 1.0  # silence after which the connection is asked whether it lives
PATIENCE = 3.0  # how long it may take to answer that
LARGEST = 2**25  # bytes of a message; Redis itself drops a subscriber that is further behind
STEADY = 2.0  # seconds after which a connection counts as one that held
EPOCH = Message(b"", "epoch", b"")


class Slots:
    """Which flights of this process wait for which keys."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._slots: defaultdict[str, list[Slot]] = defaultdict(list)  # guarded by lock

    def open(self, key: str) -> Slot:
        slot = Slot(key)
        with self.lock:
            self._slots[key].append(slot)
        return slot

    def close(self, slot: Slot) -> None:
        with self.lock:
            waiting = self._slots.get(slot.key, [])
            if slot in waiting:  # else the process was forked meanwhile, and these are the child's slots
                waiting.remove(slot)
                if not waiting:
                    del self._slots[slot.key]

    def put(self, key: str, message: Message) -> None:
        """A message for a key sets all of its slots."""
        with self.lock:
            waiting = list(self._slots.get(key, ()))
        for slot in waiting:
            slot.put(message)

    def put_all(self, message: Message) -> None:
        with self.lock:
            waiting = [slot for slots in self._slots.values() for slot in slots]
        for slot in waiting:
            slot.put(message)


class Ear:
    """What is done with what is heard, whoever hears it."""

    def __init__(
        self,
        channels: tuple[str, str],
        slots: Slots,
        *,
        up: Callable[[], None],
        down: Callable[[], None],
        invalid: Callable[[str, bytes], None],
        unquiet: Callable[[str], None],
        count: Callable[..., None],
    ) -> None:
        self.channels = channels
        self._slots = slots
        self._up, self._down, self._invalid, self._unquiet = up, down, invalid, unquiet
        self._count = count
        self._lock = threading.Lock()
        self._told: list[Callable[[], object]] = []  # guarded by _lock
        self.started = threading.Event()  # set when the first attempt to subscribe has ended, well or not
        self.heard = False  # it was subscribed at least once
        self.fault: str | None = None

    def when_started(self, tell: Callable[[], object]) -> None:
        """Call `tell`, from any thread, once `started` is set."""
        with self._lock:
            if not self.started.is_set():
                self._told.append(tell)
                return
        tell()

    def subscribed(self) -> None:
        """A subscription holds: a new epoch, which wakes everybody who waits."""
        self.fault = None
        self._up()
        self.heard = True
        self._slots.put_all(EPOCH)
        self._tell_started()

    def lost(self, why: str) -> None:
        """The connection is lost, or could not be made: nothing is verified until the next epoch."""
        self.fault = why
        self._down()
        self._tell_started()

    def _tell_started(self) -> None:
        with self._lock:
            self.started.set()
            told, self._told = self._told, []
        for tell in told:
            tell()

    def take(self, channel: bytes, payload: bytes) -> None:
        """A message came."""
        try:
            words = msgpack.unpackb(payload, raw=True, max_array_len=8, max_map_len=0, max_ext_len=0, list_hook=_flat)
            key = words[0].decode()
            if channel == self.channels[1].encode():
                if len(words[1]) not in (0, 8):
                    raise ValueError("not an id")
                self._invalid(key, words[1])
            else:
                message = Message(words[1], words[2].decode(), words[3])
                self._unquiet(key)
                self._slots.put(key, message)
        except Exception as error:  # hostile or of a newer version
            self._count("undecodable")
            log.debug("An inbox message was ignored: %s", error)


def _flat(words: list[Any]) -> list[bytes]:
    # Called from the inside out, so nested lists end here before there are many of them.
    if not words or not all(isinstance(word, bytes) for word in words):
        raise TypeError("not a list of strings")
    return words


class Inbox(Ear):
    """The thread that hears; `draw` is uniform in (0, 1], `patience` bounds a subscription, in seconds."""

    def __init__(
        self,
        connect: Callable[[], Link],
        channels: tuple[str, str],
        slots: Slots,
        *,
        draw: Callable[[], float],
        patience: float,
        **hooks: Any,
    ) -> None:
        super().__init__(channels, slots, **hooks)
        self._connect = connect
        self._draw = draw
        self._patience = patience
        self._link: Link | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiercache-inbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float) -> None:
        self._closing.set()
        if (link := self._link) is not None:
            link.interrupt()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def after_fork(self) -> None:
        """In the child: close the copy of the parent's socket."""
        if self._link is not None:
            self._link.close()

    def _run(self) -> None:
        pause = 0.05
        while not self._closing.is_set():
            subscribed = None
            try:
                self._subscribe()
                subscribed = time.monotonic()
                self._listen()
            except Exception as error:
                if not isinstance(error, Unanswered):
                    log.exception("The inbox failed: this is a defect of tiercache")
                self._disconnected(error, subscribed=subscribed is not None)
            if subscribed is not None and time.monotonic() - subscribed >= STEADY:
                pause = 0.05
            self._closing.wait(pause * (0.5 + self._draw()))
            pause = min(2.0, pause * 2)
        if self._link is not None:
            self._link.close()

    def _disconnected(self, error: Exception, *, subscribed: bool) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if not self._closing.is_set() and (subscribed or not self.started.is_set()):
            log.warning("The inbox is not connected (%s): nothing in tier 1 is taken on trust", error)
        self.lost(str(error))

    def _subscribe(self) -> None:
        self._link = link = self._connect()
        if self._closing.is_set():
            raise Unanswered("closing")
        link.send(pack("SUBSCRIBE", *self.channels), self._patience)
        deadline = time.monotonic() + self._patience
        for _ in self.channels:
            [reply] = link.receive(deadline, limit=LARGEST)
            if not isinstance(reply, list):
                raise Unanswered(f"SUBSCRIBE was refused: {reply}")
        if self.fault is not None:
            log.warning("The inbox is connected again")
        self.subscribed()

    def _listen(self) -> None:
        link = self._link
        assert link is not None
        while not self._closing.is_set():
            if not link.readable(IDLE):
                link.send(pack("PING"), PATIENCE)
            [reply] = link.receive(time.monotonic() + PATIENCE, limit=LARGEST)
            self._take(reply)

    def _take(self, reply: Any) -> None:
        if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
            self.take(reply[1], reply[2])  # else it is the answer to a PING
