"""The wire between simulated processes and the simulated Redis: slow, cut, refused, half-open."""

from contextvars import ContextVar
from random import Random
from typing import Any

import msgpack

from sim.loop import Lane, Loop
from sim.truth import Truth
from tiercache.remote.inbox import Ear, Slots
from tiercache.remote.links import Unanswered
from tiercache.remote.resp import INCOMPLETE, reader

FENCED: ContextVar[int] = ContextVar("fenced", default=0)  # when the caller's last commands were executed


class Net:
    """How one process's network is just now; the chances are per request."""

    def __init__(self) -> None:
        self.down = False
        self.lose_request = 0.0
        self.lose_reply = 0.0
        self.slow = 0.0  # longest delay in seconds that now and then holds up a request or a reply
        self.slow_messages = 0.0  # the same for what the inbox hears

    def heal(self) -> None:
        self.__init__()  # type: ignore[misc]

    @staticmethod
    def latency(rng: Random, slow: float) -> float:
        latency = 0.0002 + 0.0008 * rng.random()
        return latency if not slow or rng.random() < 0.5 else latency + slow * rng.random()


class SimWire:
    """One process's way to the server."""

    def __init__(self, loop: Loop, truth: Truth, member: Any) -> None:
        self.loop, self.truth, self.member = loop, truth, member
        self.net = Net()
        self._parser = reader()
        self.ear: SimEar | None = None

    def links(self) -> Any:
        return self  # nothing of the simulated processes blocks, so nobody asks it to exchange

    def loop_links(self) -> Any:
        return self

    def after_fork(self) -> None:
        pass

    def close(self) -> None:
        pass

    def inbox(self, channels: tuple[str, str], slots: Slots, *, draw: Any, **hooks: Any) -> "SimEar":
        self.ear = SimEar(self, channels, slots, **hooks)
        return self.ear

    def free(self) -> "SimWire":
        return self

    async def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        """The replies, or Unanswered; what was given up may still be executed."""
        loop, net, rng = self.loop, self.net, self.loop.rng
        self._parser.feed(packed)
        commands = []
        while (command := self._parser.gets()) is not INCOMPLETE:
            commands.append(command)
        future = loop.create_future()
        if net.down and rng.random() < 0.5:
            loop.call_later(net.latency(rng, 0.0), _fail, future, "connection refused")
        elif not net.down and rng.random() >= net.lose_request:
            loop.in_lane(loop.network, net.latency(rng, net.slow), self._arrive, commands, [], future)
        handle = loop.call_later(timeout, _fail, future, "no answer in time")
        try:
            answer, seq = await future
        finally:
            handle.cancel()
        FENCED.set(seq)
        return answer  # type: ignore[no-any-return]

    def _arrive(self, commands: list[Any], replies: list[Any], future: Any) -> None:
        replies.append(self.truth.execute(self.member, commands[len(replies)]))
        loop, rng = self.loop, self.loop.rng
        if len(replies) < len(commands):  # what is sent in one write is not atomic
            loop.in_lane(loop.network, 0.0002 * rng.random(), self._arrive, commands, replies, future)
        elif not self.net.down and rng.random() >= self.net.lose_reply:
            loop.in_lane(
                loop.network,
                self.net.latency(rng, self.net.slow),
                self._answer,
                commands,
                replies,
                self.truth.seq,
                future,
            )

    def _answer(self, commands: list[Any], replies: list[Any], seq: int, future: Any) -> None:
        if not future.done() and not self.member.dead:
            self.truth.answered(self.member, commands, replies)
            future.set_result((replies, seq))


def _fail(future: Any, why: str) -> None:
    if not future.done():
        future.set_exception(Unanswered(why))


class SimEar(Ear):
    """The inbox's connection: messages arrive in order, later; a cut may be noticed late."""

    def __init__(self, wire: SimWire, channels: tuple[str, str], slots: Slots, **hooks: Any) -> None:
        super().__init__(channels, slots, **hooks)
        self.wire = wire
        self.lane = Lane()
        self.wire.member.lanes.append(self.lane)
        self._life = 0  # of the connection; what belongs to an earlier one is lost
        self._arrives = 0.0
        self._pause = 0.05
        self._hear: Any = None
        self.closed = False

    def start(self) -> None:
        self._connect(self._life)

    def close(self, timeout: float) -> None:
        self.closed = True
        self._break()

    def after_fork(self) -> None:
        self.close(0)

    def cut(self, notice: float) -> None:
        """The connection is lost now; the process notices after `notice` seconds."""
        if self._hear is not None:
            self._break()
            self._later(notice, self._lost, self._life)

    def _break(self) -> None:
        self._life += 1
        if self._hear is not None:
            self.wire.truth.redis.unsubscribe(self._hear)
            self._hear = None

    def _later(self, delay: float, callback: Any, *args: Any) -> None:
        self.wire.loop.in_lane(self.lane, delay, callback, *args)

    def _connect(self, life: int) -> None:
        if self.closed or life != self._life:
            return
        net, rng = self.wire.net, self.wire.loop.rng
        if net.down:
            self._later(0.25 * rng.random(), self._lost, life)
        else:
            self.wire.loop.in_lane(self.wire.loop.network, net.latency(rng, net.slow_messages), self._subscribe, life)

    def _subscribe(self, life: int) -> None:
        if self.closed or life != self._life:
            return
        truth = self.wire.truth
        self._hear = lambda channel, payload: self._message(life, channel, payload)
        truth.redis.subscribe(self._hear, *self.channels)
        self._arrives = self.wire.loop.clock + self._latency()
        self._later(self._arrives - self.wire.loop.clock, self._subscribed, life, truth.seq)

    def _subscribed(self, life: int, seq: int) -> None:
        if not self.closed and life == self._life:
            self._pause = 0.05
            self.wire.truth.epoch_began(self.wire.member, seq)
            self.subscribed()

    def _latency(self) -> float:
        return self.wire.net.latency(self.wire.loop.rng, self.wire.net.slow_messages)

    def _message(self, life: int, channel: bytes, payload: bytes) -> None:
        loop = self.wire.loop
        self._arrives = max(self._arrives, loop.clock + self._latency())
        self._later(self._arrives - loop.clock, self._take, life, channel, payload, self.wire.truth.seq)

    def _take(self, life: int, channel: bytes, payload: bytes, seq: int) -> None:
        if not self.closed and life == self._life:
            self.take(channel, payload)
            if channel == self.channels[1].encode():
                key = msgpack.unpackb(payload, raw=True)[0].decode()
                self.wire.truth.handled(self.wire.member, key, seq)

    def _lost(self, life: int) -> None:
        if self.closed or life != self._life:
            return
        self.lost("cut by the simulation")
        self._life += 1
        self._later(self._pause * self.wire.loop.rng.random(), self._connect, self._life)
        self._pause = min(2.0, self._pause * 2)
