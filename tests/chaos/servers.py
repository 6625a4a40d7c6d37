"""What the chaos tests share: caches of both colours, a crowd that keeps asking, and what must not be left behind."""

import asyncio
import itertools
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from proxy import Proxy
from redis_server import PATIENT, RedisServer
from test_flow import BYPASSES

from tiercache import Cache, Policy, RemoteUnavailable

SOON = 60.0
BOTH = pytest.mark.parametrize("colour", ["sync", "async"])
SHORT = Policy(lease=0.3)
BREATH = 0.0002  # between a caller's calls: callers who never pause keep the interpreter's lock from others for seconds
RUNS = pytest.mark.parametrize(
    ("colour", "policy"),
    [
        pytest.param("sync", SHORT, id="sync"),
        pytest.param("async", SHORT, id="async"),
        pytest.param("sync", Policy(), id="defaults"),
    ],
)


def until(done: Callable[[], Any], what: str = "it did not come to pass") -> Any:
    """What `done` gives once it is true; it is asked until then."""
    end = time.monotonic() + SOON
    while not (result := done()):
        assert time.monotonic() < end, what
        time.sleep(0.002)
    return result


class Source:
    """What is cached: a version for each key. Loads are counted here, where no cache can miscount them."""

    def __init__(self) -> None:
        self.versions: Counter[str] = Counter()
        self.floors: Counter[str] = Counter()  # the version at the last invalidation that succeeded
        self.loads: Counter[str] = Counter()
        self.sizes = (0,)
        self.during: Callable[[], object] = lambda: None  # runs in every load
        self._lock = threading.Lock()

    def load(self, key: str) -> list[Any]:
        with self._lock:
            self.loads[key] += 1
            version = self.versions[key]
        self.during()
        return [key, version, self.padding(key)]

    def padding(self, key: str) -> str:
        return "x" * self.sizes[zlib.crc32(key.encode()) % len(self.sizes)]


class Face:
    """A cache whose calls, in either colour, may be made from any thread; async ones are tasks of one loop."""

    def __init__(self, cache: Cache, source: Source, loop: asyncio.AbstractEventLoop | None) -> None:
        self.cache, self.source, self._loop = cache, source, loop

    def __getattr__(self, name: str) -> Any:
        if self._loop is None or not hasattr(Cache, "a" + name):
            return getattr(self.cache, name)
        method, loop = getattr(self.cache, "a" + name), self._loop

        def call(*args: Any, **kwargs: Any) -> Any:
            async def main() -> Any:
                return await method(*args, **kwargs)

            return asyncio.run_coroutine_threadsafe(main(), loop).result(SOON)

        return call

    def loader(self, key: str) -> Callable[[], Any]:
        """Loads `key` from the source, without blocking a loop."""
        if self._loop is None:
            return lambda: self.source.load(key)

        async def load() -> Any:
            return await asyncio.to_thread(self.source.load, key)

        return load

    def ask(self, key: str, **policy: Any) -> int:
        """The version that `get_or_load` answers."""
        found, version, padding = self.get_or_load(key, self.loader(key), **policy)
        assert (found, padding) == (key, self.source.padding(key))
        return int(version)

    def replace(self, key: str) -> None:
        """A new version in the source, and an invalidation, which may fail."""
        self.source.versions[key] += 1
        version = self.source.versions[key]
        self.invalidate(key)
        self.source.floors[key] = version

    def answers(self) -> bool:
        """Does everything work that the cache needs?"""
        try:
            self.ping()
        except RemoteUnavailable:
            return False
        return True

    def bypasses(self) -> int:
        stats = self.stats()
        return sum(stats[name] for name in BYPASSES)


class Crowd:
    """Callers on threads who ask all the time, until `stop`: each key some times in a row, then the next."""

    def __init__(self, faces: list[Face], callers: int = 2, row: int = 24, **policy: Any) -> None:
        self._policy, self._row = policy, row
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._errors: list[BaseException] = []
        self.answers = 0
        self.slowest = 0.0
        self._threads = [
            threading.Thread(target=self._ask, args=(face,), name="chaos-caller")
            for face in faces
            for _ in range(callers)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, face: Face) -> None:
        try:
            while not self._stopped.is_set():
                key = f"crowd{next(self._numbers) // self._row}"
                began = time.monotonic()
                assert face.ask(key, **self._policy) == 0
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.answers += 1
                time.sleep(BREATH)
        except BaseException as error:
            self._errors.append(error)

    def goes_on(self, answers: int = 200) -> None:
        """Return after that many more answers."""
        goal = self.answers + answers
        until(lambda: self._errors or self.answers >= goal, "the callers got no answers")
        assert not self._errors, self._errors

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive()
        assert not self._errors, self._errors

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Stage:
    """A server, a proxy before it, and caches of one colour that share a source."""

    def __init__(self, server: RedisServer, proxy: Proxy, loop: asyncio.AbstractEventLoop | None) -> None:
        self.server, self.proxy, self._loop = server, proxy, loop
        self.source = Source()
        self.faces: list[Face] = []

    def face(self, url: str | None = None, **settings: Any) -> Face:
        """A cache as another process would have it; by way of the proxy unless `url` says where."""
        cache = Cache(url or self.proxy.url, **{"namespace": "chaos", **settings})
        self.faces.append(Face(cache, self.source, self._loop))
        return self.faces[-1]

    def two(self, url: str | None = None, **settings: Any) -> list[Face]:
        faces = [self.face(url, **settings) for _ in range(2)]
        until(lambda: all(face.answers() for face in faces))
        return faces

    def totals(self) -> Counter[str]:
        """The counters of all caches."""
        return sum((Counter(face.stats()) for face in self.faces), Counter())

    def settles(self) -> None:
        """Wait until everything works again; then one load per key, heard by all, and no way around the lease."""
        for face in self.faces:
            become_patient(face.cache)
        until(lambda: all(face.answers() for face in self.faces), "it does not come back")
        before, loads = self.totals(), self.source.loads.total()
        names = [f"settled{len(self.source.loads)}-{n}" for n in range(5)]
        for name in names:
            assert [face.ask(name) for face in self.faces] == [0] * len(self.faces)
        assert [self.source.loads[name] for name in names] == [1] * 5
        self.faces[0].replace(names[0])
        until(lambda: all(face.ask(names[0]) == 1 for face in self.faces), "an invalidation was not heard")
        assert self.source.loads.total() == loads + 6
        after = self.totals()
        assert [face.ask(names[1]) for face in self.faces] == [0] * len(self.faces)
        assert self.totals()["hits_local"] == after["hits_local"] + len(self.faces), "nothing is taken on trust"
        assert [after[name] for name in BYPASSES] == [before[name] for name in BYPASSES]

    def counts_are_true(self) -> None:
        """S9, and what each cache says against what the source saw."""
        totals = self.totals()
        loads = self.source.loads.total()
        assert totals["loads"] == loads
        assert loads <= totals["grants"] + sum(totals[name] for name in BYPASSES)
        assert totals["commits"] + totals["commit_rejected"] <= totals["grants"]
        assert totals["load_failures"] == totals["unexpected"] == 0

    def close(self) -> None:
        for face in self.faces:
            began = time.monotonic()
            face.close()
            assert time.monotonic() - began < 10, "closing takes too long"


@contextmanager
def stage(colour: str, *config: str) -> Iterator[Stage]:
    """A stage of one's own; checks that nothing is left behind when the test went well."""
    threads = set(threading.enumerate())
    with RedisServer(*config) as server, Proxy(server.port) as proxy, looping(colour) as loop:
        made = Stage(server, proxy, loop)
        try:
            yield made
            made.counts_are_true()
            leaves_no_keys(made.server)
        finally:
            made.close()
        proxy.recover()
        until(lambda: not proxy.connections, "a connection is left")
        with made.server.client() as client:
            until(lambda: len(client.client_list(_type="normal")) == 1, "Redis has clients left")
            until(lambda: not client.client_list(_type="pubsub"), "Redis has subscribers left")
    until(lambda: not set(threading.enumerate()) - threads, "a thread is left")


@contextmanager
def looping(colour: str) -> Iterator[asyncio.AbstractEventLoop | None]:
    """A running event loop for async callers, None for sync ones."""
    if colour == "sync":
        yield None
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chaos-loop")
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_end_of(loop), loop).result(SOON)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SOON)
        loop.close()


async def _end_of(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left
    await loop.shutdown_default_executor()


def become_patient(cache: Cache) -> None:
    """From here on nothing is a fault because the machine is busy: calls may take as long as with PATIENT."""
    node = cache._process.node
    node.call_budget = PATIENT["call_budget"]
    node.remote._calls._timeout = PATIENT["call_timeout"]  # type: ignore[attr-defined]


def leaves_no_keys(server: RedisServer) -> None:
    """Leases and staged values end by themselves; whatever else is there has a lifetime."""
    with server.client() as client:
        until(lambda: not [name for name in _names(client) if name.endswith(":l") or ":s:" in name], "a lease is stuck")
        assert not [name for name in _names(client) if client.ttl(name) == -1]


def _names(client: redis.Redis) -> Iterable[str]:
    return [name.decode() for name in client.scan_iter("tc1:*", count=1000)]


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """`act` again and again on a thread, while the block runs."""
    ended, errors = threading.Event(), []

    def repeat() -> None:
        try:
            while not ended.is_set():
                act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=repeat, name="chaos-meanwhile")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(SOON)
        assert not errors, errors


def answering(faces: list[Face]) -> Callable[[], bool]:
    """Do all of them work?"""
    return lambda: all(face.answers() for face in faces)
