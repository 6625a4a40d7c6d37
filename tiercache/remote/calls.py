"""One call to Redis: budget, breaker, one retry on a new connection, unknown scripts, refusals.

`io.exchange` is the only thing that may suspend. Whatever Redis answers, nothing but RemoteDown and RemoteRefused
comes out.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, TypeVar

from tiercache.port import Port, RemoteDown, RemoteRefused
from tiercache.remote.breaker import Breaker
from tiercache.remote.commands import Command, evaluate
from tiercache.remote.links import Unanswered
from tiercache.remote.resp import Refusal, pack_all

T = TypeVar("T")
log = logging.getLogger("tiercache")

SILENCE = 60.0  # seconds without a refusal, after which the next one is told again


class Oversized(RemoteDown):
    """A reply was larger than any that can be used."""


class Calls:
    """Sends commands through whoever asks and says what the replies are."""

    def __init__(
        self, breaker: Breaker, now: Callable[[], float], count: Callable[..., None], call_timeout: float
    ) -> None:
        self._breaker = breaker
        self._now = now
        self._count = count
        self._timeout = call_timeout
        self._refused: dict[str, float] = {}  # code -> when it was last seen
        self._why = ""

    async def call(self, io: Port, commands: list[Command], *, retry: bool = True) -> list[Any]:
        """The replies to commands sent in one write; an error reply is a Refusal in its place."""
        replies = await self.send(io, pack_all(commands), len(commands), retry=retry)
        missing = [
            at
            for at, reply in enumerate(replies)
            if isinstance(reply, Refusal) and reply.code == "NOSCRIPT" and commands[at][0] == "EVALSHA"
        ]
        if missing:
            texts = pack_all(evaluate(commands[at]) for at in missing)
            again = await self.send(io, texts, len(missing), retry=retry)
            for at, reply in zip(missing, again, strict=True):
                replies[at] = reply
        return replies

    async def send(self, io: Port, packed: bytes, count: int, *, retry: bool = True) -> list[Any]:
        """The `count` replies to packed commands, as they are."""
        why, now, breaker = "", self._now, self._breaker
        for last in (False, True) if retry else (True,):
            if io.left <= 0:
                raise RemoteDown(f"the call budget is spent{why}")
            ticket = breaker.admits() if breaker.failures else breaker.ticket
            if not ticket:
                raise RemoteDown(f"the circuit breaker is open: {self._why}")
            started, most = now(), math.inf
            timeout = self._timeout if self._timeout < io.left else io.left
            try:
                replies = io.exchange(packed, count, timeout)
                if not isinstance(replies, list):
                    replies = await replies
            except Unanswered as error:
                if error.oversized:
                    self._answered()
                    raise Oversized(str(error)) from None
                if not error.ours:
                    self._unanswered(ticket, str(error))
                if last:
                    raise RemoteDown(str(error)) from None
                why = f" ({error})"
            else:
                most = timeout  # what it took beyond was its size, or threads and turns of a loop, and no time of Redis
                if breaker.failures:
                    self._answered()
                return replies
            finally:
                took = now() - started
                io.left -= took if took < most else most
        raise AssertionError("unreachable")

    def _answered(self) -> None:
        if self._breaker.answered():
            log.warning("Redis answers again: the circuit breaker is closed")

    def _unanswered(self, ticket: int, why: str) -> None:
        self._why = why
        if self._breaker.unanswered(ticket):
            self._count("breaker_opened")
            log.warning("Redis does not answer (%s): the circuit breaker is open", why)

    def parsed(self, parse: Callable[[Any], T], reply: Any) -> T:
        """What a reply says; raises RemoteRefused for an error reply and for one that `parse` does not know."""
        if isinstance(reply, Refusal):
            raise self.refusal(reply)
        try:
            return parse(reply)
        except (TypeError, ValueError):
            raise self.refusal(Refusal("REPLY is not one that tiercache's scripts give")) from None

    def refusal(self, reply: Refusal) -> RemoteRefused:
        """The error to raise for an error reply; logged when it is new, or back after a silence."""
        now, message = self._now(), str(reply).strip()[:200]
        if now - self._refused.get(reply.code, -SILENCE) >= SILENCE:
            log.warning("Redis refuses with %s (not repeated while it lasts): %s", reply.code, message)
        self._refused[reply.code] = now
        return RemoteRefused(reply.code, message)
