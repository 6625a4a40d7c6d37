"""Refreshes that are left to a worker: sent, taken, loaded under the lease and stored; and what is refused."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis_server import RedisServer
from test_flow import BYPASSES, Gate, until

import tiercache.worker
from tiercache import Cache, Policy
from tiercache.blocking import run
from tiercache.leader import Leader
from tiercache.local.record import VALUE, Record
from tiercache.local.table import Mode, Verdict
from tiercache.port import Granted, Lease
from tiercache.remote import jobs
from tiercache.remote.jobs import GROUP, KEPT
from tiercache.testing import MemoryCache
from tiercache.worker import Worker

DUE = Policy(ttl=60, beta=1e9, refresh="worker", error_backoff=30)  # each hit is due, unless the entry is quiet
SHORT = {"lease": 0.1}  # and with it, the time that workers have
KEY = b"0123456789abcdef"


class Running:
    """A worker on a loop of its own; `said` is its log."""

    def __init__(self, cache: Cache, concurrency: int = 4, grace: float = 30.0) -> None:
        self.cache, self._concurrency, self._grace = cache, concurrency, grace
        self.ready = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error
            self.ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(self.cache, self._concurrency, lambda ready: self.ready.set() if ready else None)
        try:
            await self._worker.run(self._grace)
        finally:
            await self.cache.aclose()

    def __getitem__(self, counter: str) -> int:
        return self.cache.stats()[counter]

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._worker.stop)

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Starts a worker of a cache and waits until it is ready."""
    monkeypatch.setattr(jobs, "BLOCK", 0.1)  # it is stopped as often as it is started here
    workers: list[Running] = []

    def start(cache: Cache, **settings: Any) -> Running:
        workers.append(Running(cache, **settings))
        assert workers[-1].ready.wait(60)
        return workers[-1]

    yield start
    for each in workers:
        if each.error is None:
            each.stop()
            each.end()


class Stream:
    """What stands in the jobs' stream, and a hand in it."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client = client
        self.name, self.workers = f"tc1:{{{namespace}:}}:jobs", f"tc1:{{{namespace}:}}:workers"

    def pretend(self) -> None:
        """There is a stream, and a worker that takes nothing."""
        self.client.xgroup_create(self.name, GROUP, "0", mkstream=True)
        self.client.set(self.workers, "1", px=60_000)

    def length(self) -> int:
        return int(self.client.xlen(self.name))  # type: ignore[arg-type]

    def pending(self) -> int:
        found: Any = self.client.xpending(self.name, GROUP)
        return int(found["pending"])

    def until_done(self) -> None:
        until(lambda: not self.length() and not self.pending())


@pytest.fixture
def stream(redis_server: RedisServer, namespace: str) -> Iterator[Stream]:
    with redis_server.client() as client:
        yield Stream(client, namespace)


def counted(cache: Cache, **settings: Any) -> tuple[Any, list[int]]:
    """A function of the cache that counts its calls, in this process."""
    calls: list[int] = []

    @cache.cached("item:{item}", **settings)
    def get_item(item: int) -> list[int]:
        calls.append(item)
        return [item, len(calls)]

    return get_item, calls


def id_of(cache: Cache, key: str) -> bytes:
    entry = cache.table.peek(key)
    assert entry is not None
    return entry.id


def refreshes(cache: Cache, key: str, call: Callable[[], Any]) -> None:
    """The call has the value replaced behind it."""
    old = id_of(cache, key)
    call()
    until(lambda: id_of(cache, key) != old)


def shows(cache: Cache, **counters: int) -> None:
    """Those counters, and no bypass."""
    stats = cache.stats()
    assert {name: stats[name] for name in counters} == counters
    assert not any(stats[name] for name in (*BYPASSES, "undecodable", "unread", "refreshes_skipped"))


# The good case.


def test_a_worker_loads_what_a_process_finds_due(
    make_cache: Callable[..., Cache], work: Callable[..., Running], stream: Stream
) -> None:
    """The process goes on with the old value, runs nothing, and has the new one at the end of the worker's time."""
    here, there = make_cache(policy=DUE), make_cache(policy=DUE)
    get_item, calls = counted(here, **SHORT)
    _, calls_there = counted(there)
    worker = work(there)
    assert get_item(1) == [1, 1]
    assert get_item(1) == [1, 1]
    old = id_of(here, "item:1")
    until(lambda: worker["jobs_done"] == 1)
    until(lambda: id_of(here, "item:1") != old)
    assert (calls, calls_there) == ([1], [1])
    shows(here, loads=1, jobs_sent=1, jobs_unsent=0, jobs_untaken=0)
    shows(there, loads=1, commits=1, jobs_failed=0, jobs_dropped=0, jobs_refused=0)
    stream.until_done()


def test_async_functions_are_run_on_the_loop(make_cache: Callable[..., Cache], work: Callable[..., Running]) -> None:
    """Arguments come back as what they were, defaults and keywords included, and the key is the same."""
    here, there = make_cache(policy=DUE), make_cache(policy=DUE)
    seen: list[tuple[Any, str]] = []

    def decorated(cache: Cache) -> Any:
        @cache.cached(**SHORT)
        async def find(item: Any, /, *, kind: str = "book") -> str:
            seen.append((item, kind))
            return asyncio.current_task().get_name() and kind  # type: ignore[union-attr]

        return find

    find, _there = decorated(here), decorated(there)
    worker = work(there)

    async def main() -> None:
        key = find.key((1, frozenset({b"x"})), kind="pen")
        await find((1, frozenset({b"x"})), kind="pen")
        old = id_of(here, key)
        await find((1, frozenset({b"x"})), kind="pen")
        await asyncio.to_thread(until, lambda: worker["jobs_done"] == 1)
        await asyncio.to_thread(until, lambda: id_of(here, key) != old)

    asyncio.run(main())
    assert seen == [((1, frozenset({b"x"})), "pen")] * 2
    shows(here, loads=1, jobs_sent=1, jobs_unsent=0, jobs_untaken=0)
    shows(there, loads=1, jobs_refused=0)


def test_a_fleet_sends_one_job(make_cache: Callable[..., Cache], stream: Stream) -> None:
    """For one record and its time, however many processes find it due; then one of them loads."""
    stream.pretend()
    caches = [make_cache(policy=DUE) for _ in range(4)]
    functions = [counted(cache, lease=0.5) for cache in caches]
    for get_item, _ in functions:
        get_item(1)
    for get_item, _ in functions:
        get_item(1)
    until(lambda: all(cache.stats()["jobs_sent"] == 1 for cache in caches))
    assert stream.length() == 1
    until(lambda: sum(cache.stats()["jobs_untaken"] for cache in caches) == 1)
    until(lambda: all(cache.stats()["jobs_sent"] == 1 for cache in caches))
    assert sum(len(calls) for _, calls in functions) == 2


@pytest.mark.parametrize("colour", ["threads", "tasks"])
def test_what_is_not_taken_in_time_is_loaded_here(
    make_cache: Callable[..., Cache], stream: Stream, colour: str
) -> None:
    """Without another caller: when the workers' time is over, this process looks by itself."""
    stream.pretend()
    cache = make_cache(policy=DUE)
    calls = []

    @cache.cached(**SHORT)
    def get_item(item: int) -> int:
        calls.append(item)
        return len(calls)

    @cache.cached(**SHORT)
    async def aget_item(item: int) -> int:
        calls.append(item)
        return len(calls)

    async def main() -> None:
        assert [await aget_item(1), await aget_item(1)] == [1, 1]
        await asyncio.to_thread(until, lambda: cache.stats()["commits"] == 2)

    if colour == "tasks":
        asyncio.run(main())
    else:
        assert [get_item(1), get_item(1)] == [1, 1]
        until(lambda: cache.stats()["commits"] == 2)
    assert calls == [1, 1]
    shows(cache, jobs_sent=1, jobs_untaken=1, jobs_unsent=0)


def test_the_time_of_workers_ends_by_an_appointment(make_cache: Callable[..., Cache], stream: Stream) -> None:
    """Not by the entry's quiet, whose end may come a little later."""
    stream.pretend()
    cache = make_cache(policy=DUE)
    get_item, calls = counted(cache)
    get_item(1)
    get_item(1)
    timer = cache._process.node.timer
    until(lambda: bool(timer._appointed))
    until(lambda: not cache._process.node.leaders)
    assert cache.table.probe("item:1", cache._process.node.now(), mode=int(Mode.AHEAD))[0] == Verdict.HIT  # quiet
    old = id_of(cache, "item:1")
    _, _, look = timer._appointed.pop()
    run(look(cache._blocking()))
    until(lambda: id_of(cache, "item:1") != old)
    shows(cache, jobs_sent=1, jobs_untaken=1)
    assert calls == [1, 1]


def test_an_entry_that_is_over_is_not_left_to_workers(make_cache: Callable[..., Cache], stream: Stream) -> None:
    """There would be no time for them: counted, and refreshed at once."""
    stream.pretend()
    cache = make_cache(policy=DUE)
    get_item, calls = counted(cache)
    get_item(1)
    node = cache._process.node
    now = node.now
    node.now = lambda: now() + 61.0  # past its freshness, within stale-if-error
    flight = cache.table.probe("item:1", now(), mode=int(Mode.AHEAD))[-1]
    leader = Leader(cache._blocking(), flight, get_item._loader((1,), {}), DUE)
    run(leader.fly())
    shows(cache, jobs_sent=0, jobs_unsent=1, commits=2)
    assert (stream.length(), calls) == (0, [1, 1])


# Without a worker.


def test_without_a_worker_a_process_refreshes_at_once(
    make_cache: Callable[..., Cache],
    work: Callable[..., Running],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Counted, and said once; also when workers are back."""
    here, there = make_cache(policy=DUE), make_cache(policy=DUE)
    get_item, calls = counted(here, **SHORT)
    _there = counted(there)
    get_item(1)
    for _ in range(2):
        refreshes(here, "item:1", lambda: get_item(1))
    shows(here, jobs_sent=0, jobs_unsent=2, jobs_untaken=0)
    assert calls == [1, 1, 1]
    work(there)
    get_item(1)
    until(lambda: here.stats()["jobs_sent"] == 1)
    lines = [each.message for each in caplog.records if "worker" in each.message and each.name == "tiercache"]
    assert lines == ["No tiercache worker is alive: this process refreshes by itself", "The workers are back"]


def test_a_plain_loader_is_refreshed_by_its_process(make_cache: Callable[..., Cache], stream: Stream) -> None:
    """It can't be sent, and that is no fault."""
    stream.pretend()
    cache = make_cache(policy=DUE)
    cache.get_or_load("k", lambda: 1)
    refreshes(cache, "k", lambda: cache.get_or_load("k", lambda: 1))
    assert stream.length() == 0
    shows(cache, jobs_sent=0, jobs_unsent=0, jobs_untaken=0)


def test_a_redis_in_memory_has_no_worker() -> None:
    """Nobody could read its stream: the process refreshes, and it is counted."""
    with MemoryCache(policy=DUE) as cache:
        get_item, calls = counted(cache)
        get_item(1)
        refreshes(cache, "item:1", lambda: get_item(1))
        shows(cache, jobs_sent=0, jobs_unsent=1)
        assert calls == [1, 1]


def test_a_cache_without_redis_takes_worker_for_background() -> None:
    """There is no fleet, and no fault."""
    with Cache(policy=DUE) as cache:
        get_item, calls = counted(cache)
        get_item(1)
        refreshes(cache, "item:1", lambda: get_item(1))
        shows(cache, jobs_sent=0, jobs_unsent=0)
        assert calls == [1, 1]


def unencodable(cache: Cache) -> tuple[Callable[[], Any], str]:
    class Counter:
        @cache.cached
        def total(self: Any) -> int:
            return 1

        def __cache_key__(self) -> str:
            return "counter"

    counter = Counter()
    return counter.total, counter.total.key()


def too_large(cache: Cache) -> tuple[Callable[[], Any], str]:
    @cache.cached("k", ignore=("text",))
    def total(text: str) -> int:
        return 1

    return lambda: total("x" * 70_000), "k"


def of_main(cache: Cache) -> tuple[Callable[[], Any], str]:
    def total() -> int:
        return 1

    total.__module__ = "__main__"
    cached = cache.cached(total)
    return cached, cached.key()


@pytest.mark.parametrize("made", [unencodable, too_large, of_main])
def test_calls_that_cant_be_sent_are_refreshed_by_their_process(
    make_cache: Callable[..., Cache], stream: Stream, caplog: pytest.LogCaptureFixture, made: Callable[..., Any]
) -> None:
    """Instances without a stored form, large arguments, functions of __main__: counted, said once per function."""
    stream.pretend()
    cache = make_cache(policy=DUE)
    total, key = made(cache)
    total()
    for _ in range(2):
        refreshes(cache, key, total)
    assert stream.length() == 0
    shows(cache, jobs_sent=0, jobs_unsent=2)
    lines = [each.message for each in caplog.records if "can't be sent" in each.message]
    assert len(lines) == 1
    assert "total" in lines[0]


def test_a_stream_that_is_refused_costs_nothing_else(
    make_cache: Callable[..., Cache], stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """Something foreign stands there: said, counted, refreshed here."""
    stream.pretend()
    stream.client.set(stream.name, "foreign")
    cache = make_cache(policy=DUE)
    get_item, _ = counted(cache)
    get_item(1)
    refreshes(cache, "item:1", lambda: get_item(1))
    shows(cache, jobs_sent=0, jobs_unsent=1)
    assert "WRONGTYPE" in caplog.text


# What a worker makes of jobs.


def test_where_the_stream_is_gone_no_process_makes_one(make_cache: Callable[..., Cache], stream: Stream) -> None:
    """It would have no end: the workers make it, and see to it that it ends with them."""
    stream.pretend()
    stream.client.delete(stream.name)
    cache = make_cache(policy=DUE)
    get_item, _ = counted(cache)
    get_item(1)
    refreshes(cache, "item:1", lambda: get_item(1))
    shows(cache, jobs_sent=0, jobs_unsent=1)
    assert not stream.client.exists(stream.name)


class Sender:
    """Sends jobs as they should be, or as they should not."""

    def __init__(self, cache: Cache, stream: Stream) -> None:
        self.node, self.stream = cache._process.node, stream
        cache.cached("nothing")(lambda: None)()  # it has woken up

    def record(self, key: str, content: Any, id: bytes = b"known id", use: float = 60.0) -> Record:
        record: Record = self.node.values.pack_job(key, content, id=id, use=use, delta=0.0)
        return record

    def add(self, key: str, record: Record | bytes, at: str = "*") -> None:
        data = record if isinstance(record, bytes) else record.pack()
        self.stream.client.xadd(self.stream.name, {"key": key, "job": data}, id=at)  # type: ignore[arg-type]


@pytest.fixture
def sender(make_cache: Callable[..., Cache], stream: Stream) -> Sender:
    return Sender(make_cache(policy=DUE), stream)


LABEL = "test_worker.counted.<locals>.get_item as item:{item}"

BAD: dict[str, tuple[str, Callable[[Sender], Any]]] = {
    "other fields": ("malformed", lambda s: s.stream.client.xadd(s.stream.name, {"job": b"x"})),
    "no record": ("can't be read: malformed", lambda s: s.add("item:1", b"x" * 100)),
    "too large": ("can't be read: malformed", lambda s: s.add("item:1", b"x" * 200_000)),
    "a value": ("can't be read", lambda s: s.add("item:1", s.record("item:1", [LABEL, [1], {}])._replace(kind=VALUE))),
    "a cut one": ("can't be read", lambda s: s.add("item:1", s.record("item:1", [LABEL, [1], {}]).pack()[:-1])),
    "bad msgpack": ("can't be read", lambda s: s.add("item:1", s.record("item:1", 1)._replace(payload=b"\xc1\xc1"))),
    "no call": ("not a call", lambda s: s.add("item:1", s.record("item:1", [LABEL, [1]]))),
    "keywords of other types": ("not a call", lambda s: s.add("item:1", s.record("item:1", [LABEL, [1], {1: 2}]))),
    "an unknown function": ("no function 'os.system'", lambda s: s.add("x", s.record("x", ["os.system", ["ls"], {}]))),
    "arguments that do not bind": ("do not fit", lambda s: s.add("item:1", s.record("item:1", [LABEL, [1, 2], {}]))),
    "no arguments": ("do not fit", lambda s: s.add("item:1", s.record("item:1", [LABEL, [], {}]))),
    "an argument without a key": ("do not fit", lambda s: s.add("item:1", s.record("item:1", [LABEL, [1.5], {}]))),
    "another key": ("has the key 'item:1' here", lambda s: s.add("item:2", s.record("item:2", [LABEL, [1], {}]))),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_job_is_refused_and_the_next_one_done(
    make_cache: Callable[..., Cache],
    work: Callable[..., Running],
    sender: Sender,
    stream: Stream,
    caplog: pytest.LogCaptureFixture,
    bad: str,
) -> None:
    """One clear line however often it comes, a count for each, and it is gone."""
    cache = make_cache(policy=DUE)
    _function, calls = counted(cache)
    worker = work(cache)
    text, send = BAD[bad]
    for _ in range(3):
        send(sender)
    sender.add("item:7", sender.record("item:7", [LABEL, [7], {}]))
    until(lambda: worker["jobs_done"] == 1)
    until(lambda: worker["jobs_refused"] == 3)
    stream.until_done()
    assert calls == [7]
    lines = [each.message for each in caplog.records if each.levelno > logging.INFO]
    assert len(lines) == 1
    assert text in lines[0]


@pytest.mark.parametrize("theirs", [None, b"another key of 16"])
def test_with_keys_a_worker_believes_signed_jobs_alone(
    make_cache: Callable[..., Cache],
    work: Callable[..., Running],
    stream: Stream,
    caplog: pytest.LogCaptureFixture,
    theirs: bytes | None,
) -> None:
    """Signed for this key by somebody who has one; else it is refused, before anything is decoded."""
    cache = make_cache(policy=DUE, sign_with=KEY)
    _function, calls = counted(cache)
    worker = work(cache)
    stranger = Sender(make_cache(policy=DUE, sign_with=theirs), stream)
    stranger.add("item:1", stranger.record("item:1", [LABEL, [1], {}]))
    friend = Sender(make_cache(policy=DUE, sign_with=KEY), stream)
    friend.add("item:2", friend.record("item:3", [LABEL, [2], {}]))  # moved
    friend.add("item:4", friend.record("item:4", [LABEL, [4], {}]))
    until(lambda: worker["jobs_done"] == 1)
    until(lambda: worker["jobs_refused"] == 2)
    assert calls == [4]
    assert "not signed" in caplog.text if theirs is None else "its signature is not of any key" in caplog.text
    stream.until_done()


def test_a_job_is_no_value(make_cache: Callable[..., Cache], sender: Sender, stream: Stream) -> None:
    """A signed job that somebody puts in a value's place is not read."""
    signed = make_cache(sign_with=KEY)
    record = signed._process.node.values.pack_job("k", ["f", [], {}], id=b"12345678", use=60, delta=0)
    stream.client.set(signed._process._names.value("k"), record.pack(), px=60_000)
    assert signed.get("k") is None
    assert signed.stats()["undecodable"] == 1


def test_jobs_that_are_needed_no_more_are_dropped(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """Too old by the server's clock, or a newer value is there."""
    cache = make_cache(policy=DUE)
    get_item, calls = counted(cache)
    get_item(2)
    stream.pretend()
    sender.add("item:1", sender.record("item:1", [LABEL, [1], {}], use=3600), at="1-1")
    sender.add("item:2", sender.record("item:2", [LABEL, [2], {}], id=b"an older"))
    worker = work(cache)
    until(lambda: worker["jobs_dropped"] == 2)
    stream.until_done()
    assert calls == [2]
    shows(cache, jobs_done=0, jobs_refused=0)


def test_who_finds_a_load_running_looks_again(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """Its holder may be dead: the job is acknowledged when its lease has ended and the value is there."""
    cache = make_cache(policy=DUE)
    _function, calls = counted(cache)
    node = sender.node
    lease = Lease("item:1", b"t" * 16, 2.0)
    assert isinstance(run(node.remote.acquire(node.timer._io(), lease, b"", False)), Granted)
    worker = work(cache)
    sender.add("item:1", sender.record("item:1", [LABEL, [1], {}]))
    until(lambda: worker["busy"] >= 1)
    assert (stream.pending(), calls) == (1, [])
    until(lambda: worker["jobs_done"] == 1)
    assert calls == [1]
    stream.until_done()


def test_jobs_of_dead_workers_are_claimed_by_others(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """Whoever took them says nothing of them; ones that were trimmed away meanwhile are forgotten."""
    stream.pretend()
    for item in (1, 2):
        sender.add(f"item:{item}", sender.record(f"item:{item}", [LABEL, [item], {}]))
    taken: Any = stream.client.xreadgroup(GROUP, "dead", {stream.name: ">"}, count=2)
    stream.client.xdel(stream.name, taken[0][1][1][0])
    cache = make_cache(policy=DUE)
    _function, calls = counted(cache)
    worker = work(cache)
    until(lambda: worker["jobs_done"] == 1)
    stream.until_done()
    assert calls == [1]
    shows(cache, jobs_dropped=0, jobs_refused=0)


def test_a_running_job_stays_its_workers(
    make_cache: Callable[..., Cache],
    work: Callable[..., Running],
    sender: Sender,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long its function runs, no other worker claims it."""
    monkeypatch.setattr(jobs, "ALIVE", 1.5)
    monkeypatch.setattr(tiercache.worker, "BEAT", 0.1)
    gate = Gate(1)
    slow, other = make_cache(policy=DUE), make_cache(policy=DUE)
    _slow = slow.cached("item:{item}", max_load=600)(named_get_item(gate))
    _function, calls = counted(other)
    holder = work(slow)
    sender.add("item:1", sender.record("item:1", [LABEL, [1], {}]))
    assert gate.running.wait(60)
    work(other)
    for _ in range(30):  # signs of life of it
        stream.client.delete(stream.workers)
        until(lambda: stream.client.exists(stream.workers))
    assert (other.stats()["busy"], holder["busy"], stream.pending()) == (0, 0, 1)
    gate.go.set()
    until(lambda: holder["jobs_done"] == 1)
    stream.until_done()
    assert calls == []


def test_one_that_is_held_already_is_dropped(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """The same record is to be replaced: it takes no place beside the first, and no election."""
    gate = Gate(1)
    cache = make_cache(policy=DUE)
    _function = cache.cached("item:{item}")(named_get_item(gate))
    worker = work(cache)
    for _ in range(3):
        sender.add("item:1", sender.record("item:1", [LABEL, [1], {}]))
    assert gate.running.wait(60)
    until(lambda: worker["jobs_dropped"] == 2)
    gate.go.set()
    until(lambda: worker["jobs_done"] == 1)
    assert (gate.runs, worker["busy"]) == (1, 0)
    stream.until_done()


def named_get_item(load: Callable[[], Any]) -> Callable[[int], Any]:
    """A function of the name that `counted` gives."""

    def get_item(item: int) -> Any:
        return load()

    get_item.__qualname__ = "counted.<locals>.get_item"
    return get_item


def failing() -> Any:
    raise ValueError("no such\ntable")


@pytest.mark.parametrize(
    ("load", "settings", "text"),
    [
        (failing, {}, "ValueError: no such table"),
        (lambda: b"x" * 2000, {"max_value_bytes": 1000}, "max_value_bytes is 1,000"),
        (threading.Lock, {}, "can't be encoded"),
    ],
    ids=["raises", "huge", "no value"],
)
def test_a_loader_that_fails_keeps_the_old_value(
    make_cache: Callable[..., Cache],
    work: Callable[..., Running],
    stream: Stream,
    caplog: pytest.LogCaptureFixture,
    load: Callable[[], Any],
    settings: dict[str, Any],
    text: str,
) -> None:
    """One line, a count, a pause for the fleet, and the job is gone; the process serves what it has, and waits too."""
    caplog.set_level(logging.INFO, "tiercache.worker")
    here, there = make_cache(policy=DUE), make_cache(policy=DUE, **settings)
    get_item, calls = counted(here, **SHORT)
    _function = there.cached("item:{item}")(named_get_item(load))
    worker = work(there)
    get_item(1)
    assert get_item(1) == [1, 1]
    until(lambda: worker["jobs_failed"] == 1)
    stream.until_done()
    until(lambda: here.stats()["cooldowns"] == 1)
    assert get_item(1) == [1, 1]
    assert calls == [1]
    lines = [each.message for each in caplog.records if each.name == "tiercache.worker" and "failed" in each.message]
    assert len(lines) == 1
    assert text in lines[0]
    assert "\n" not in lines[0]


def test_no_more_functions_run_at_once_than_allowed(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """The others stay in the stream, for workers that have room."""
    gate = Gate(1)
    cache = make_cache(policy=DUE)
    _function = cache.cached("item:{item}")(named_get_item(gate))
    worker = work(cache, concurrency=2)
    for item in range(5):
        sender.add(f"item:{item}", sender.record(f"item:{item}", [LABEL, [item], {}]))
    until(lambda: gate.runs == 2)
    assert (stream.pending(), stream.length()) == (2, 5)
    gate.go.set()
    until(lambda: worker["jobs_done"] == 5)
    stream.until_done()


# Life.


def test_a_stopped_worker_ends_what_it_runs(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """It takes nothing more; what runs is stored and acknowledged."""
    gate = Gate(1)
    cache = make_cache(policy=DUE)
    _function = cache.cached("item:{item}")(named_get_item(gate))
    worker = work(cache)
    sender.add("item:1", sender.record("item:1", [LABEL, [1], {}]))
    assert gate.running.wait(60)
    worker.stop()
    gate.go.set()
    worker.end()
    assert worker["jobs_done"] == 1
    sender.add("item:2", sender.record("item:2", [LABEL, [2], {}]))
    assert (stream.pending(), stream.length()) == (0, 1)


def test_what_runs_at_the_end_of_the_grace_is_handed_to_others(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """At once: neither its lease nor its claim is waited for. A second stop is the end of the grace."""
    gate = Gate(1)
    hung, other = make_cache(policy=DUE, call_budget=0.5), make_cache(policy=DUE)
    _hung = hung.cached("item:{item}", lease=60, max_load=60)(named_get_item(gate))
    _function, calls = counted(other)
    first = work(hung, grace=600.0)
    sender.add("item:1", sender.record("item:1", [LABEL, [1], {}]))
    assert gate.running.wait(60)
    first.stop()
    first.stop()
    first.end()
    left: Any = stream.client.xpending_range(stream.name, GROUP, "-", "+", 10)
    assert left[0]["time_since_delivered"] > 10**8  # ms: nobody waits for its claim to end
    second = work(other)
    until(lambda: second["jobs_done"] == 1)
    gate.go.set()
    assert calls == [1]
    stream.until_done()


def test_a_stream_that_was_flushed_is_made_again(
    make_cache: Callable[..., Cache], work: Callable[..., Running], sender: Sender, stream: Stream
) -> None:
    """Whatever empties Redis; and it has a lifetime, so it does not outlive its workers for long."""
    cache = make_cache(policy=DUE)
    _function, calls = counted(cache)
    worker = work(cache)
    stream.client.delete(stream.name, stream.workers)
    until(lambda: stream.client.exists(stream.name) and stream.client.exists(stream.workers))
    until(lambda: 0 < int(stream.client.pttl(stream.name)) <= KEPT)  # type: ignore[arg-type]
    sender.add("item:1", sender.record("item:1", [LABEL, [1], {}]))
    until(lambda: worker["jobs_done"] == 1)
    assert calls == [1]
