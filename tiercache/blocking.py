"""The port for threads: its methods block and never suspend, so `run` finishes a flow with one send."""

import contextvars
import inspect
import sys
import threading
from collections.abc import Coroutine
from typing import Any

from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome
from tiercache.local.run import run as run
from tiercache.local.turnstile import Turnstile
from tiercache.policy import Policy
from tiercache.port import Fly, Loader, Message, Node, Place, Slot, loading
from tiercache.workers import Workers

_LONGEST = threading.TIMEOUT_MAX / 2


class BlockingPort:
    """One sync call's view of the world."""

    __slots__ = ("_refreshers", "in_frame", "left", "node")
    on_loop = False

    def __init__(self, node: Node, refreshers: Workers, behind: bool = False) -> None:
        self.node = node
        self.left = node.call_budget
        self._refreshers = refreshers
        self.in_frame = not behind

    async def ready(self) -> None:
        inbox = self.node.inbox
        if inbox is not None and not inbox.started.is_set():
            began = self.node.now()
            inbox.started.wait(self.left)
            self.left -= self.node.now() - began
        self.node.ready = inbox is None or inbox.started.is_set()

    def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        return self.node.links.exchange(packed, replies, timeout)  # type: ignore[no-any-return]

    async def lead(self, flight: Flight, fly: Fly, policy: Policy) -> Outcome | None:
        return await fly(self)

    def follow(self, flight: Flight, seconds: float) -> Turnstile | None:
        """Begin to wait for a flight: what to wait for before one leaves it; None: it is settled."""
        return flight.follow(None, Turnstile())

    async def join(self, flight: Flight, seconds: float) -> Outcome | None:
        turnstile = self.follow(flight, seconds)
        if turnstile is None:
            return flight.outcome  # type: ignore[no-any-return]
        try:
            return flight.outcome if turnstile.wait(seconds) else None
        finally:
            flight.leave()

    async def load(self, loader: Loader, flight: Flight, policy: Policy) -> Outcome:
        entered = self.node.inside(flight)
        try:
            if self.in_frame:
                value = loader()
            else:
                with self.node.around_load():
                    value = loader()
        except Exception as error:
            return Outcome(error=error)
        finally:
            loading.reset(entered)
        if inspect.isawaitable(value):
            if isinstance(value, Coroutine):
                value.close()
            return Outcome(
                error=TypeError(
                    f"the loader of {flight.key!r} is async: use the a-methods, or decorate an async function"
                )
            )
        return Outcome(value)

    async def wait(self, slot: Slot, seconds: float) -> Message | None:
        event = threading.Event()
        slot.wake = event.set
        if not slot.messages:
            event.wait(max(0.0, min(seconds, _LONGEST)))
        return slot.messages[-1] if slot.messages else None

    def spawn(self, flight: Flight, fly: Fly) -> bool:
        context = contextvars.copy_context()
        port = BlockingPort(self.node, self._refreshers, behind=True)
        return self._refreshers.submit(lambda: context.run(run, fly(port)), queue_up=False)

    def place(self) -> Place:
        node, refreshers = self.node, self._refreshers
        return lambda act: act(BlockingPort(node, refreshers))

    def stop(self) -> None:
        pass  # a thread can't be stopped: its own caller gets the value when it comes

    def blocks_a_loop(self) -> bool:
        events = sys.modules.get("asyncio.events")
        return events is not None and events._get_running_loop() is not None
