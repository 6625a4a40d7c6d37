"""An event loop for asyncio in virtual time; a seed decides who runs next."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

LANE: "ContextVar[Lane]" = ContextVar("lane")


class Lane:
    """One thing that runs by itself: a process's event loop, one of its threads, or the network.

    What is scheduled in a lane runs in the order of its scheduling; which lane goes on is drawn.
    """

    __slots__ = ("context", "dead", "frozen", "queue", "queued")

    def __init__(self) -> None:
        self.queue: deque[Handle] = deque()
        self.context = Context()  # of what is no task
        self.context.run(LANE.set, self)
        self.queued = False  # the loop knows that there is something to run
        self.frozen = False  # SIGSTOP
        self.dead = False


class Handle:
    __slots__ = ("args", "at", "callback", "context", "lane")

    def __init__(self, callback: Any, args: tuple[Any, ...], context: Context, lane: Lane) -> None:
        self.callback, self.args, self.context, self.lane = callback, args, context, lane
        self.at = 0.0

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.callback = None

    def cancelled(self) -> bool:
        return self.callback is None


class Stuck(Exception):
    """More steps than any history needs: something spins."""


class Loop(asyncio.AbstractEventLoop):
    """`step()` runs one callback; when nobody can run, the clock moves on to the next timer."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.clock = 1000.0
        self.network = Lane()
        self.steps = 0
        self.errors: list[str] = []
        self.finished = False
        self.tasks: list[tuple[asyncio.Task[Any], Any, Context]] = []
        self._active: list[Lane] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._made = 0

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self.clock

    def get_debug(self) -> bool:
        return False

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, context: Context | None = None, **options: Any) -> "asyncio.Task[Any]":
        context = context if context is not None else copy_context()
        task = asyncio.Task(coro, loop=self, context=context, **options)
        self.tasks.append((task, coro, context))
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        context = context if context is not None else copy_context()
        handle = Handle(callback, args, context, context.get(LANE, self.network))
        self._put(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        context = context if context is not None else copy_context()
        return self._at(when, Handle(callback, args, context, context.get(LANE, self.network)))

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        context = context if context is not None else copy_context()
        return self._at(self.clock + delay, Handle(callback, args, context, context.get(LANE, self.network)))

    def _at(self, when: float, handle: Handle) -> Handle:
        self._made += 1
        handle.at = when
        heapq.heappush(self._timers, (when, self._made, handle))
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.finished:
            self.errors.append(f"the loop heard of: {context.get('message')} {context.get('exception')!r}")

    # Running.

    def start(self, lane: Lane, coro: Any) -> "asyncio.Task[Any]":
        """A task that runs in a lane."""
        context = Context()
        context.run(LANE.set, lane)
        return self.create_task(coro, context=context)

    def in_lane(self, lane: Lane, delay: float, callback: Callable[..., Any], *args: Any) -> Any:
        """Call something later in a lane."""
        return self._at(self.clock + delay, Handle(callback, args, lane.context, lane))

    def thaw(self, lane: Lane) -> None:
        lane.frozen = False
        if lane.queue and not lane.queued:
            lane.queued = True
            self._active.append(lane)

    def _put(self, handle: Handle) -> None:
        lane = handle.lane
        if lane.dead or self.finished:
            return
        lane.queue.append(handle)
        if not lane.queued and not lane.frozen:
            lane.queued = True
            self._active.append(lane)

    def run_until(self, when: float, limit: int = 200_000) -> None:
        """Run everything that is due until the virtual time `when`."""
        active, timers, random = self._active, self._timers, self.rng.random
        asyncio._set_running_loop(self)
        try:
            while True:
                while active:
                    at = int(random() * len(active)) if len(active) > 1 else 0
                    lane = active[at]
                    queue = lane.queue
                    handle = queue.popleft() if queue and not (lane.frozen or lane.dead) else None
                    if handle is None or not queue:
                        active[at] = active[-1]
                        active.pop()
                        lane.queued = False
                    if handle is not None and handle.callback is not None:
                        self._step(handle, limit)
                if not timers or timers[0][0] > when:
                    self.clock = max(self.clock, when)
                    return
                due, _, handle = heapq.heappop(timers)
                if handle.callback is not None:
                    self.clock = max(self.clock, due)
                    self._put(handle)
        finally:
            asyncio._set_running_loop(None)

    def _step(self, handle: Handle, limit: int) -> None:
        self.steps += 1
        if self.steps > limit:
            raise Stuck(f"{limit} steps by {self.clock:.3f}")
        try:
            handle.context.run(handle.callback, *handle.args)
        except Exception as error:
            self.errors.append(f"a callback raised {error!r}")

    def finish(self) -> None:
        """Nothing runs from here on; what is pending is closed, each in its own context."""
        self.finished = True
        for task, coro, context in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                context.run(coro.close)
            elif not task.cancelled():
                task.exception()
        self.tasks.clear()
        self._timers.clear()
        self._active.clear()
