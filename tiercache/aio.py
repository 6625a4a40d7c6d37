"""The port for asyncio. The loads it leads are tasks of their own, so that no caller's cancellation ends them.

This file is longer than others because a port, what its loops own, and their end are read together.
"""

import asyncio
import contextvars
import inspect
import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from tiercache.errors import CacheClosed
from tiercache.local.flight import Flight
from tiercache.local.outcome import AGAIN, Outcome
from tiercache.local.waiter import Waiter, end_all
from tiercache.policy import Policy
from tiercache.port import Fly, Loader, Message, Node, Place, Slot, is_async, loading
from tiercache.remote.links import Unanswered
from tiercache.wire import Wire
from tiercache.workers import Workers

_LONGEST = 1e6
ENDING = 1.0  # seconds that `aclose` waits for cancelled refreshes to end


class Loops:
    """What belongs to the event loops of one process: a connection each, and the running loads."""

    def __init__(self, wire: Wire | None, workers: Workers) -> None:
        self._wire = wire
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
        self._latest: tuple[Callable[[], Any], Any] = (_nobody, None)  # the loop that asked last, and its links
        self.workers = workers
        self.tasks: set[asyncio.Task[Any]] = set()
        self.refreshes: set[asyncio.Task[Any]] = set()  # those of them that began behind their callers
        self._closed = False

    def port(self, node: Node) -> "AioPort":
        """A port for one async call, on the running loop."""
        return AioPort(node, self)

    def links(self, loop: asyncio.AbstractEventLoop) -> Any:
        """The connections of a loop, made with its first call."""
        latest, links = self._latest
        if self._closed or latest() is not loop:
            links = self._links.get(loop) or self._new_links(loop)
            self._latest = weakref.ref(loop), links
        return links

    def _new_links(self, loop: asyncio.AbstractEventLoop) -> Any:
        if self._closed or self._wire is None:
            raise Unanswered("the cache is closed", ours=True)
        for ended in [each for each in list(self._links) if each.is_closed()]:
            self._links.pop(ended, None)
        return self._links.setdefault(loop, self._wire.loop_links())

    def close_own(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connection of a loop, on its thread."""
        links = self._links.get(loop)
        if links is not None:
            links.close()

    def close(self) -> None:
        """Close every loop's connection, each on its own thread."""
        self._closed = True
        for loop, links in list(self._links.items()):
            try:
                loop.call_soon_threadsafe(links.close)
            except RuntimeError:  # that loop is closed, and its connection with it
                pass
        self._forget()

    def _forget(self) -> None:
        self._links.clear()
        self._latest = (_nobody, None)

    def after_fork(self) -> None:
        """In the child: close the copies of the parent's sockets and start with none."""
        for links in list(self._links.values()):
            links.after_fork()
        self._forget()
        self.tasks.clear()
        self.refreshes.clear()


def _nobody() -> None:
    """No loop."""


class LoopWaker:
    """Wakes every task of one loop that waits for one flight, by one call of the loop; one timer for them all."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Waiter] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, seconds: float) -> Waiter:
        """What ends when the flight is settled, or after so many seconds."""
        waiter = _waiter(self._loop, self._loop.time() + max(0.0, min(seconds, _LONGEST)))
        self._waiting.append(waiter)
        if self._timer is None or waiter.until < self._timer.when():
            self._look_at(waiter.until)
        return waiter

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        now, waiting, self._timer = self._loop.time(), self._waiting, None
        self._waiting = [each for each in waiting if each.until > now and not each.done()]
        for each in waiting:
            if each.until <= now:
                each.end()
        if self._waiting:  # not for each of many that end one after the other
            self._look_at(max(now + 0.001, min(each.until for each in self._waiting)))

    def __call__(self) -> None:
        if asyncio._get_running_loop() is self._loop:
            self._loop.call_soon(self._wake)  # not in the step of the task that runs
        else:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        end_all(self._loop, self._waiting)


def _waiter(loop: asyncio.AbstractEventLoop, until: float = math.inf) -> Waiter:
    return Waiter(loop, until, asyncio.CancelledError)


class AioPort:
    """One async call's view of the world."""

    __slots__ = ("_loop", "_loops", "_task", "left", "node")
    on_loop = True
    in_frame = False

    def __init__(self, node: Node, loops: Loops) -> None:
        self.node = node
        self.left = node.call_budget
        self._loops = loops
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None  # the one that runs this port's flight

    async def ready(self) -> None:
        inbox = self.node.inbox
        if inbox is not None and not inbox.started.is_set():
            waiter = _waiter(self._loop)
            inbox.when_started(partial(_tell, self._loop, waiter))
            began = self.node.now()
            await self._until(waiter, self.left)
            if not inbox.heard:  # else what it took was the loop's, not Redis's
                self.left -= self.node.now() - began
        self.node.ready = inbox is None or inbox.started.is_set()

    async def _until(self, waiter: Waiter, seconds: float) -> None:
        handle = self._loop.call_later(max(0.0, min(seconds, _LONGEST)), waiter.end)
        try:
            await waiter
        finally:
            handle.cancel()

    def exchange(self, packed: bytes, replies: int, timeout: float) -> Awaitable[list[Any]]:
        links = self._loops.links(self._loop)
        link = links.free()
        if link is None:
            return self._connected(links, packed, replies, timeout)
        return link.exchange(packed, replies, timeout)  # type: ignore[no-any-return]

    async def _connected(self, links: Any, packed: bytes, replies: int, timeout: float) -> list[Any]:
        link = await links.link(self.left)
        return await link.exchange(packed, replies, timeout)  # type: ignore[no-any-return]

    async def lead(self, flight: Flight, fly: Fly, policy: Policy) -> Outcome | None:
        flight.on_loop = True
        self._task = task = self._start(flight, fly, self.left)
        if policy.on_abandon == "cancel" and policy.soft_timeout is None:
            flight.cancel = partial(self._abandon, task)
        return None

    def _abandon(self, task: "asyncio.Task[Any]") -> None:
        self.node.count("loads_abandoned")
        _tell_loop(self._loop, task.cancel)

    def _start(self, flight: Flight, fly: Fly, left: float) -> "asyncio.Task[Any]":
        port = AioPort(self.node, self._loops)
        port.left = left
        port._task = task = self._loop.create_task(fly(port))
        self._loops.tasks.add(task)
        task.add_done_callback(partial(self._ended, flight))
        return task

    def _ended(self, flight: Flight, task: "asyncio.Task[Any]") -> None:
        self._loops.tasks.discard(task)
        self.node.leaders.pop(flight, None)  # it may have been cancelled before it began
        self.node.table.settle(flight, AGAIN)
        if not task.cancelled():
            task.exception()

    def follow(self, flight: Flight, seconds: float) -> Waiter | None:
        """Begin to wait for a flight: what to await before one leaves it; None: it is settled."""
        waker = flight.follow(self._loop, LoopWaker(self._loop))
        return None if waker is None else waker.add(seconds)

    async def join(self, flight: Flight, seconds: float) -> Outcome | None:
        waiting = self.follow(flight, seconds)
        if waiting is not None:
            try:
                await waiting
            finally:
                flight.leave()
            if not flight.settled:
                return None
        if flight.outcome is AGAIN and self._task is not None:
            task, self._task = self._task, None
            await asyncio.wait({task})
            task.result()  # the loader's own BaseException belongs to the caller that started it
        return flight.outcome  # type: ignore[no-any-return]

    async def load(self, loader: Loader, flight: Flight, policy: Policy) -> Outcome:
        entered = self.node.inside(flight)
        try:
            if is_async(loader):
                with self.node.around_load():
                    return Outcome(await loader())
            outcome = await self._in_thread(loader, flight)
            if inspect.isawaitable(outcome.value):
                with self.node.around_load():
                    return Outcome(await outcome.value)
            if outcome.error is not None and not isinstance(outcome.error, Exception):
                raise outcome.error
            return outcome
        except Exception as error:
            return Outcome(error=error)
        finally:
            loading.reset(entered)

    async def _in_thread(self, loader: Loader, flight: Flight) -> Outcome:
        waiter, outcome = _waiter(self._loop), Outcome()
        context = contextvars.copy_context()

        def load() -> None:
            with self.node.around_load():
                outcome.value = loader()

        def job() -> None:
            try:
                context.run(load)
            except BaseException as error:
                outcome.error = error
            if waiter.done():  # cancelled
                _never_awaited(outcome.value)
            _tell(self._loop, waiter)

        cancel, flight.cancel = flight.cancel, None  # a thread can't be cancelled: it ends and commits
        if not self._loops.workers.submit(job):
            return Outcome(error=CacheClosed(f"the cache was closed before {flight.key!r} was loaded"))
        try:
            await waiter
        except BaseException:
            _never_awaited(outcome.value)
            raise
        flight.cancel = cancel
        return outcome

    async def wait(self, slot: Slot, seconds: float) -> Message | None:
        waiter = _waiter(self._loop)
        slot.wake = partial(_tell, self._loop, waiter)
        if not slot.messages:
            await self._until(waiter, seconds)
        return slot.messages[-1] if slot.messages else None

    def spawn(self, flight: Flight, fly: Fly) -> bool:
        flight.on_loop = True
        task = self._start(flight, fly, self.node.call_budget)
        self._loops.refreshes.add(task)
        task.add_done_callback(self._loops.refreshes.discard)
        return True

    def place(self) -> Place:
        return partial(_act, weakref.ref(self._loop), self.node, self._loops)

    def stop(self) -> None:
        if self._task is not None:
            _tell_loop(self._loop, self._task.cancel)

    def blocks_a_loop(self) -> bool:
        return False


def _act(
    where: "weakref.ref[asyncio.AbstractEventLoop]", node: Node, loops: Loops, act: Callable[[AioPort], object]
) -> None:
    loop = where()
    if loop is not None:
        _tell_loop(loop, lambda: act(loops.port(node)))


def _never_awaited(value: Any) -> None:
    # A loader's awaitable whose flight was cancelled meanwhile: Python would warn of a coroutine.
    if isinstance(value, Coroutine):
        value.close()


def _tell(loop: asyncio.AbstractEventLoop, waiter: Waiter) -> None:
    _tell_loop(loop, partial(end_all, loop, [waiter]))


def _tell_loop(loop: asyncio.AbstractEventLoop, call: Any) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:  # closed: nobody is left to hear it
        pass


async def aclose(loops: Loops, close: Callable[[], None]) -> None:
    """Close this loop's connection here, and the rest on a thread, because it may wait for Redis."""
    loop = asyncio.get_running_loop()
    loops.close_own(loop)
    waiter = _waiter(loop)

    def job() -> None:
        close()
        _tell(loop, waiter)

    thread = threading.Thread(target=job, name="tiercache-close", daemon=True)
    thread.start()
    await waiter
    thread.join()  # it has nothing left to do
    own = {task for task in loops.refreshes if task.get_loop() is loop and task is not asyncio.current_task()}
    for task in own:
        task.cancel()
    if own:
        await asyncio.wait(own, timeout=ENDING)
