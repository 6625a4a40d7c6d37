"""What processes do in test_processes.py: each function runs in a fresh process that may fork."""

import os
import threading
import time
from typing import Any

from redis_server import PATIENT

from tiercache import Cache, Policy
from tiercache.blocking import run


def _in_child(work: Any) -> Any:
    """What `work()` returns in a forked child of this process; an exception's text if it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = repr(work())
        except BaseException as error:
            text = f"raised {error!r}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


def with_a_live_cache(url: str, namespace: str, pipe: Any) -> None:
    """The parent has connections, an inbox and entries; the child uses the cache, then the parent does."""
    cache = Cache(url, namespace=namespace, **PATIENT)
    cache.set("old", "by the parent")
    parent = cache._process.node.remote.process

    def child() -> Any:
        assert cache.stats()["entries"] == 1
        seen = cache.get("old"), cache.get_or_load("new", lambda: "by the child")
        cache.set("old", "by the child")
        return seen, cache._process.node.remote.process != parent, cache._process.node.inbox.heard

    answer = _in_child(child)
    for _ in range(2000):
        if cache.get("old") == "by the child":
            break
        time.sleep(0.005)
    pipe.send((answer, cache.get("old"), cache.get("new"), cache.stats()))
    cache.close()


def preloaded(url: str, namespace: str, pipe: Any) -> None:
    """The cache is made before the fork and used after it only."""
    cache = Cache(url, namespace=namespace, **PATIENT)
    pipe.send([_in_child(lambda: cache.get_or_load("k", lambda: "loaded")) for _ in range(2)])
    cache.close()


def with_a_load_in_flight(url: str, namespace: str, pipe: Any) -> None:
    """Another thread of the parent is loading when it forks; the child asks for the same key."""
    cache = Cache(url, namespace=namespace, **PATIENT)
    running, go = threading.Event(), threading.Event()

    def load() -> str:
        running.set()
        go.wait(30)
        return "by the parent"

    thread = threading.Thread(target=lambda: cache.get_or_load("k", load))
    thread.start()
    running.wait(30)
    threading.Timer(0.5, go.set).start()
    answer = _in_child(lambda: cache.get_or_load("k", lambda: "by the child"))
    thread.join(30)
    pipe.send((answer, cache.get("k"), cache.stats()))
    cache.close()


def inside_a_loader(url: str, namespace: str, pipe: Any) -> None:
    """The loader itself forks, and the child returns from it too: it must not commit with the parent's token."""
    cache = Cache(url, namespace=namespace, **PATIENT)
    reader, writer = os.pipe()
    children: list[int] = []

    def load() -> str:
        child = os.fork()
        if child:
            children.append(child)
            os.waitpid(child, 0)
            return "by the parent"
        return "by the child"

    try:
        value = cache.get_or_load("k", load)
    finally:
        if not children:
            os.write(writer, repr((value, cache.stats()["commits"])).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as ended:
        pipe.send((ended.read().decode(), value, cache.stats()))
    cache.close()


def refreshes_ahead(url: str, namespace: str, pipe: Any) -> None:
    """Parent and child ask for a popular item of their own; each says when it was refreshed ahead."""
    policy = Policy(ttl=1, beta=0, hot_rate=0.1, half_life=1)
    cache = Cache(url, namespace=namespace, policy=policy, **PATIENT)

    def asks(key: str) -> int:
        before, deadline = cache.stats()["refreshes_ahead"], time.monotonic() + 30
        while cache.stats()["refreshes_ahead"] == before and time.monotonic() < deadline:
            cache.get_or_load(key, lambda: key)
            time.sleep(0.005)
        return cache.stats()["refreshes_ahead"] - before

    cache.get_or_load("parent", lambda: "parent")
    pipe.send((_in_child(lambda: asks("child")), asks("parent")))
    cache.close()


def exits_while_refreshing(url: str, namespace: str, pipe: Any) -> None:
    """The process ends while a background refresh holds its lease."""
    cache = Cache(
        url, namespace=namespace, policy=Policy(ttl=0.05, jitter=0, beta=0, stale_while_revalidate=60), **PATIENT
    )
    cache.get_or_load("k", lambda: "old")
    running = threading.Event()

    def load() -> str:
        running.set()
        time.sleep(300)
        return "never"

    time.sleep(0.1)
    assert cache.get_or_load("k", load) == "old"
    running.wait(30)
    pipe.send("refreshing")


def many_loops_then_exit(url: str, namespace: str, pipe: Any) -> None:
    """asyncio.run twice without closing the cache: nothing is said on the way out."""
    import asyncio

    cache = Cache(url, namespace=namespace, **PATIENT)

    async def main(key: str) -> Any:
        return await cache.aget_or_load(key, lambda: key)

    pipe.send([asyncio.run(main("a")), asyncio.run(main("b")), asyncio.run(main("a"))])


def with_popularity(url: str, namespace: str, pipe: Any) -> None:
    """Parent and child hit keys of their own and report; the hits of both, and what the fleet makes of them."""
    cache = Cache(url, namespace=namespace, policy=Policy(half_life=1e6), **PATIENT)
    cache.set_many({"parent": 1, "child": 1})

    def hit(key: str, times: int) -> int:
        before = cache.stats()["hits_local"]
        for _ in range(times):
            assert cache.get(key) == 1
        return cache.stats()["hits_local"] - before

    def report() -> None:
        process = cache._process
        assert process.reports is not None
        run(process.reports.report(process.blocking()))

    def child() -> int:
        hits = hit("child", 30)
        report()
        cache.close()
        return hits

    hits = {"parent": hit("parent", 50)}
    report()
    hits["parent"] += hit("parent", 50)
    hits["child"] = int(_in_child(child))
    hits["parent"] += hit("parent", 50)
    report()
    pipe.send((hits, {key: share for key, _, share in cache.hot(fleet=True)}))
    cache.close()
