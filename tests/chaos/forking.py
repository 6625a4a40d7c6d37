"""Processes that fork while loads, calls and event loops of theirs are under way."""

import asyncio
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib.machinery import PathFinder
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace
from typing import Any

from members import SOON, Marks, made

from tiercache import Cache


def sockets() -> set[str]:
    """The inodes of the sockets that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
        if target.startswith("socket:"):
            found.add(target)
    return found


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        self.submit(self._loop.shutdown_asyncgens()).result(SOON)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SOON)
        self._loop.close()


def launched(how: str, work: Callable[..., None], *args: Any) -> tuple[Connection, Callable[[], int | None]]:
    """Start `work(pipe, *args)` in a new process; its pipe, and what waits for its exit code."""
    ours, theirs = multiprocessing.Pipe()
    if how != "os.fork":
        process: Any = multiprocessing.get_context(how).Process(target=work, args=(theirs, *args))
        process.start()
        theirs.close()

        def ended() -> int | None:
            process.join(SOON)
            return process.exitcode  # type: ignore[no-any-return]

        return ours, ended
    child = os.fork()
    if child == 0:
        try:
            work(theirs, *args)
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    theirs.close()
    return ours, lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def heard(pipe: Connection) -> Any:
    assert pipe.poll(SOON), "a child said nothing"
    answer = pipe.recv()
    pipe.close()
    return answer


def preloads(pipe: Any, url: str, namespace: str, policy: dict[str, Any], how: str, workers: int) -> None:
    """A master that uses its cache, with a load of each colour under way, and then starts its workers."""
    marks, loop = Marks(url, namespace), Loop()
    marks.add("master", "connected")
    others = sockets()
    cache = made(url, namespace, policy)
    cache.set("old", "by the master")
    go_on = threading.Event()

    def load() -> str:
        marks.add("sync", "loading")
        go_on.wait(SOON)
        return "by the master"

    async def aload() -> str:
        marks.add("async", "loading")
        await asyncio.to_thread(go_on.wait, SOON)
        return "by the master"

    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(cache.get_or_load("sync", load)))
    thread.start()
    future = loop.submit(cache.aget_or_load("async", aload))
    marks.until("sync", "loading")
    marks.until("async", "loading")
    own = sockets() - others
    inherited = cache if how in ("fork", "os.fork") else None
    children = [
        launched(how, worker, inherited, url, namespace, policy, own, number, cache.stats()["joins"])
        for number in range(workers)
    ]
    marks.until_waited_for("sync", workers)
    go_on.set()
    thread.join(SOON)
    answers.append(future.result(SOON))
    told = [heard(each) for each, _ in children]
    codes = [ended() for _, ended in children]
    answers.append(cache.get("new"))
    pipe.send((told, codes, answers, cache.stats(), len(own)))
    loop.close()
    cache.close()
    marks.close()


def worker(
    pipe: Connection,
    inherited: Cache | None,
    url: str,
    namespace: str,
    policy: dict[str, Any],
    masters: set[str],
    number: int,
    joins: int,
) -> None:
    """Ask for what the master has, what it loads, and what is new; what came, shared sockets and joined flights."""
    shared = sockets() & masters
    cache, marks = inherited or made(url, namespace, policy), Marks(url, namespace)

    def load(key: str) -> str:
        marks.add(key, "loading")
        return "by a worker"

    async def aload() -> str:
        return load("async")

    answers = [
        cache.get("old"),
        cache.get_or_load("sync", lambda: load("sync")),
        asyncio.run(cache.aget_or_load("async", aload)),
        cache.get_or_load("new", lambda: load("new")),
        cache.get_or_load(f"own-{number}", lambda: load(f"own-{number}")),
    ]
    shared |= sockets() & masters
    joined = cache.stats()["joins"] - (joins if inherited else 0)
    cache.close()
    pipe.send((answers, shared, joined))


def forks_amid_calls(pipe: Any, url: str, namespace: str, policy: dict[str, Any], forks: int) -> None:
    """Fork again and again while threads and an event loop read, load and write; send what each child said."""
    cache, loop, ended = made(url, namespace, policy), Loop(), threading.Event()
    wrong: list[Any] = []

    def busy(name: str) -> None:
        number = 0
        while not ended.is_set():
            number += 1
            key = f"{name}-{number}"
            if cache.get_or_load(key, lambda: time.sleep(0.001) or "loaded") != "loaded" or cache.get(key) != "loaded":
                wrong.append(key)
            cache.set(key, "set")

    async def abusy() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            if await cache.aget_or_load(f"loop-{number}", lambda: "loaded") != "loaded":
                wrong.append(number)

    threads = [threading.Thread(target=busy, args=(f"thread-{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    future = loop.submit(abusy())
    for number in range(forks):
        child, end = launched("os.fork", child_of_a_busy_parent, cache, number)
        pipe.send((heard(child), end()))
    ended.set()
    for thread in threads:
        thread.join(SOON)
    future.result(SOON)
    pipe.send((wrong, cache.stats()))
    loop.close()
    cache.close()


def child_of_a_busy_parent(pipe: Connection, cache: Cache, number: int) -> None:
    key = f"child-{number}"
    first = cache.get_or_load(key, lambda: "loaded")
    second = asyncio.run(cache.aget_or_load(f"{key}-async", lambda: "loaded"))
    cache.set(key, "set")
    answers = first, second, cache.get(key)
    cache.close()
    pipe.send(answers)


def forks_amid_a_call(pipe: Any, url: str, namespace: str, policy: dict[str, Any]) -> None:
    """Fork while a thread's call has been sent and not answered; which of the cache's sockets has the child?"""
    others = sockets()
    cache = made(url, namespace, policy)
    cache.set("k", "set")
    own = sockets() - others
    cache.clear_local()
    pipe.send("ready")
    pipe.recv()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(cache.get("k")))
    thread.start()
    waits = 0  # looks in a row that found the thread where it sends and waits
    while waits < 20:
        time.sleep(0.005)
        waits = waits + 1 if _function(thread.ident) == "exchange" else 0
    child, ended = launched("os.fork", says_what_it_shares, own)
    pipe.send(heard(child))
    thread.join(SOON)
    pipe.send((answers, ended()))
    cache.close()


def forks_amid_an_import(pipe: Any, url: str, namespace: str, policy: dict[str, Any], module: str) -> None:
    """Fork while the first async call, on another thread, is importing what only async calls need."""
    cache, importing, forking = made(url, namespace, policy), threading.Event(), threading.Event()
    cache.set("k", "set")

    def find(name: str, path: Any, target: Any = None) -> Any:
        if name != module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def executes_slowly(made: ModuleType) -> None:
            importing.set()
            forking.wait(SOON)
            time.sleep(0.3)  # for the fork to fall into
            execute(made)

        loader.exec_module = executes_slowly
        return spec

    for name in ("tiercache.aio", "tiercache.aio_link"):
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, SimpleNamespace(find_spec=find))  # type: ignore[arg-type]
    thread = threading.Thread(target=asyncio.run, args=(cache.aget("new"),))
    thread.start()
    assert importing.wait(SOON)
    os.register_at_fork(before=forking.set)
    child, ended = launched("os.fork", child_of_a_busy_parent, cache, 0)
    pipe.send((heard(child), ended()))
    thread.join(SOON)
    cache.close()


def says_what_it_shares(pipe: Connection, masters: set[str]) -> None:
    pipe.send(sockets() & masters)


def _function(ident: int | None) -> str:
    frame = sys._current_frames().get(ident or 0)
    return "" if frame is None else frame.f_code.co_name
