"""A worker: takes the refreshes that other processes leave to it, loads under the lease and commits.

    take ── malformed, unknown function, other key ──▶ refused: said, counted, done
      │ a job: too old, or held already ─────────────▶ dropped
      ▼
    elect (an early flight with the id that the sender has)
      │  ├── HIT: somebody was faster ───────────────▶ dropped
      │  ├── COOLDOWN: the loader has failed ────────▶ failed
      │  └── BUSY: somebody loads, or died in it ────▶ elect again when that lease has ended
      ▼ GRANTED
    load ── commit ──▶ stored: done          load ── error ──▶ failed

A job that was taken is pending in Redis until it comes to one of these ends; while it is held here, it is claimed again
and again, so what a dead worker has held is taken by another. This file is longer than others because what begins,
holds and ends the jobs of a worker is read together.
"""

import asyncio
import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tiercache.blocking import run
from tiercache.delegation import Called
from tiercache.errors import CodecError
from tiercache.leader import Ending, Leader
from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome
from tiercache.policy import Policy
from tiercache.port import Busy, Cooldown, Granted, Hit, Old, RemoteDown, RemoteRefused, keep
from tiercache.remote.calls import Oversized
from tiercache.remote.jobs import BEAT, RIGHTS, Job
from tiercache.remote.links import Unanswered

if TYPE_CHECKING:
    from tiercache.cache import Cache

log = logging.getLogger("tiercache.worker")

LATEST = 5.0  # seconds between two attempts to reach Redis, at most
SILENCE = 60.0  # seconds between two lines about the same kind of job that is refused
AWAY = (Unanswered, RemoteDown, RemoteRefused)


class NotAllowed(Exception):
    """Redis does not let a worker do its work; the text says what it needs."""


class Refused(Exception):
    """A job that this worker can't do; the text says why."""


class Errand(Leader):
    """The flight of a job: an early one, whose value nobody here waits for."""

    async def _again(self, reading: Any) -> Ending | None:
        reading.close()  # a newer value is there: that is all a worker wants to know
        return Outcome(), None


class Worker:
    """Does the jobs of one cache, at most `concurrency` at once; sync functions in threads, others on the loop.

    `ready` is called with True when it takes jobs, and with False when it does not.
    """

    def __init__(self, cache: "Cache", concurrency: int, ready: Callable[[bool], object]) -> None:
        self._cache, self._node = cache, cache._process.node
        self._jobs = self._node.jobs
        self._free = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._ready = ready
        self._held: dict[bytes, asyncio.Task[None]] = {}
        self._records: set[tuple[str, bytes]] = set()  # keys and ids that the held jobs are to replace
        self._said: OrderedDict[str, float] = OrderedDict()  # what was refused, and when that was said last
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._reached: bool | None = None
        self._reads = True
        self._cursor = b"0-0"

    # Life.

    def stop(self) -> None:
        """Take no more jobs and end those that are held; called once more: give them back at once."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self, grace: float) -> None:
        """Work until `stop`, then end within `grace` seconds; raises NotAllowed if Redis refuses."""
        await self._open()
        reading, beating = asyncio.create_task(self._read()), asyncio.create_task(self._beat())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({reading, beating, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, beating):
                if task.done() and not self._stopping.is_set():
                    task.result()
            self._tell(None)
            await self._finish(reading, grace)
        finally:
            stopped.cancel()
            for task in (reading, beating):
                task.cancel()
            await asyncio.gather(reading, beating, return_exceptions=True)

    async def _open(self) -> None:
        # The rights are looked at before anything is taken; a Redis that can't be reached is waited for.
        pause = 0.1
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(run, self._cache._process.check(self._cache._blocking()))
                await self._jobs.open(self._cache._aio())
            except RemoteRefused as error:
                raise NotAllowed(
                    f"Redis refuses with {error}; a worker needs what the cache needs, and {RIGHTS}"
                ) from None
            except RemoteDown as error:
                if "AuthenticationError" in str(error):  # which redis-py tells threads only
                    raise NotAllowed(str(error)) from None
                self._tell(error)
                await self._rest(pause)
                pause = min(2 * pause, LATEST)
            else:
                return

    async def _finish(self, reading: "asyncio.Task[None]", grace: float) -> None:
        ends = asyncio.get_running_loop().time() + grace
        hurrying = asyncio.create_task(self._hurrying.wait())
        while waited := {task for task in (reading, *self._held.values()) if not task.done()}:
            left = ends - asyncio.get_running_loop().time()
            if hurrying.done() or left <= 0:
                break
            await asyncio.wait({*waited, hurrying}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        await self._hand_back()

    async def _hand_back(self) -> None:
        held = dict(self._held)
        if not held:
            return
        log.warning("handing back %d jobs whose functions are still running", len(held))
        loops = self._cache._process.loops()
        for task in [*held.values(), *loops.refreshes]:
            task.cancel()
        await asyncio.wait({*held.values(), *loops.refreshes})
        with contextlib.suppress(*AWAY):
            await self._jobs.hand_back(self._cache._aio(), list(held))

    def _tell(self, away: Exception | None, reached: bool = False) -> None:
        if reached is self._reached:
            return
        self._reached = reached
        self._ready(reached)
        if away is not None:
            log.warning("not ready, Redis can't be used: %s", away)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # What goes on all the time.

    async def _read(self) -> None:
        links, pause = self._cache._process.loop_links(), 0.1
        patience = max(1.0, self._node.call_budget)
        try:
            while not self._stopping.is_set():
                await self._free.acquire()
                job = None
                try:
                    if not self._stopping.is_set():
                        job = await self._jobs.take(links.free() or await links.link(patience), patience)
                    self._reads, pause = True, 0.1
                except AWAY as error:
                    self._reads = False
                    await self._lost(error)
                    await self._rest(pause)
                    pause = min(2 * pause, LATEST)
                finally:
                    if job is None:
                        self._free.release()
                if job is not None:
                    self._begin(job, free=True)
        finally:
            links.close()

    async def _beat(self) -> None:
        while True:
            io = self._cache._aio()
            try:
                works = self._reads and not self._stopping.is_set()
                await self._jobs.beat(io, list(self._held), works)
                if works:
                    self._tell(None, reached=True)
                    await self._claim(io)
            except AWAY as error:
                await self._lost(error)
            await asyncio.sleep(BEAT)

    async def _claim(self, io: Any) -> None:
        self._cursor, ids = await self._jobs.orphans(io, self._concurrency, self._cursor)
        for id in ids:
            if id in self._held:
                continue
            try:
                job = await self._jobs.look_up(io, id)
            except Oversized:
                job = Job(id, None, None, 0.0)
            if job is None:  # there was no room for it
                await self._jobs.done(io, id)
            else:
                self._begin(job)

    async def _lost(self, error: Exception) -> None:
        # A stream that was flushed, or has ended, is made again.
        if isinstance(error, RemoteRefused) and error.code == "NOGROUP":
            with contextlib.suppress(*AWAY):
                await self._jobs.open(self._cache._aio())
                return
        self._tell(error)

    # One job.

    def _begin(self, job: Job, free: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(self._work(job, free))
        self._held[job.id] = task
        task.add_done_callback(lambda _: self._held.pop(job.id, None))

    async def _work(self, job: Job, free: bool) -> None:
        """Do a job, whose place among those that run is taken already if `free`."""
        if not free:
            await self._free.acquire()
        try:
            counter = await self._do(job)
        except Refused as error:
            counter = "jobs_refused"
            self._complain(str(error))
        except Exception:
            counter = "jobs_refused"
            log.exception("A job failed: this is a defect of tiercache")
        finally:
            self._free.release()
        if counter:
            self._node.count(counter)
        with contextlib.suppress(*AWAY):  # else it is claimed again, and dropped then
            await self._jobs.done(self._cache._aio(), job.id)

    async def _do(self, job: Job) -> str:
        """The counter of what came of it."""
        key, function, args, kwargs, record = self._opened(job)
        now = self._node.now
        ends = now() + min(record.hard_ms / 1000, record.hard_ms / 1000 - job.age)
        if (key, record.id) in self._records:
            return "jobs_dropped"
        self._records.add((key, record.id))
        loader = Called(function.__wrapped__, *args, **kwargs)
        policy = self._cache._derive(None, {**function._policy, "refresh": "background", "refresh_ahead": False})
        try:
            while now() < ends:
                began = now()
                errand, outcome = await self._fly(key, record, loader, policy)
                came, counter = _came(errand, outcome)
                if came:
                    log.info("%s %r: %s in %.3f s", function._maker.label, key, came, now() - began)
                if counter is not None:
                    return counter
                self._free.release()
                try:
                    await asyncio.sleep(min(errand.quiet + 0.1 * self._node.draw(), max(0.0, ends - now())))
                finally:
                    await self._free.acquire()
            return "jobs_dropped"
        finally:
            self._records.remove((key, record.id))

    def _opened(self, job: Job) -> tuple[str, Any, list[Any], dict[str, Any], Any]:
        if job.key is None or job.data is None:
            raise Refused("a malformed job: it has not the fields that jobs have, or is too large")
        key = job.key.decode(errors="replace")
        try:
            record, content = self._node.values.open_job(key, job.data)
        except CodecError as error:
            raise Refused(f"a job for {key!r:.200} can't be read: {error}") from None
        match content:
            case [str(label), list(args), dict(kwargs)] if all(type(each) is str for each in kwargs):
                function = self._cache._functions.get(label)
            case _:
                raise Refused(f"a malformed job for {key!r:.200}: it is not a call of a function")
        if function is None:
            raise Refused(
                f"no function {label!r:.200} is decorated here: is the worker of another version, or a module missing?"
            )
        try:
            own = self._cache._wire(function.key(*args, **kwargs))
        except Exception as error:
            raise Refused(
                f"the arguments of a job do not fit {label}: is the worker of another version? ({_one_line(error)})"
            ) from None
        if own != key:
            raise Refused(f"a call of {label} has the key {own!r:.200} here, and {key!r:.200} where it was sent")
        return key, function, args, kwargs, record

    async def _fly(self, key: str, record: Any, loader: Called, policy: Policy) -> tuple[Errand, Outcome]:
        port: Any = self._cache._aio()
        flight = Flight(key, early=True)
        errand = Errand(port, flight, loader, policy)
        errand.known = record.id
        errand.old = Old(None, -math.inf, -math.inf, record.delta_ms / 1000)  # serves nobody
        port.spawn(flight, errand.flies_at)
        outcome = await port.join(flight, math.inf)
        return errand, outcome

    def _complain(self, why: str) -> None:
        now = self._node.now()
        if now - self._said.get(why, -SILENCE) >= SILENCE:
            keep(self._said, why, now)
            log.warning("refused: %s", why)


def _came(errand: Errand, outcome: Outcome) -> tuple[str, str | None]:
    """What came of a flight, in words, and its counter; None: it is to be tried again."""
    match errand.reply:
        case Hit():
            return "", "jobs_dropped"
        case Granted() if errand.stored:
            return "stored", "jobs_done"
        case Granted() if outcome.error is None:
            return "loaded, but not stored (invalidated meanwhile, or Redis does not take it)", "jobs_done"
        case Granted():
            return f"failed, {_one_line(outcome.error)}", "jobs_failed"
        case Cooldown():
            return "", "jobs_dropped"
        case Busy():
            return "", None
    return "", "jobs_dropped" if outcome.error is not None else None  # it failed here a moment ago; or Redis is away


def _one_line(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    except Exception:  # an exception that can't say what it is
        return type(error).__name__
