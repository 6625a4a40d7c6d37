"""Scripts and pools of processes: every way to run Python code has a cache that works and ends."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from apps.serving import HERE, a_supplier, until
from redis_server import RedisServer

from tiercache import Cache
from tiercache.cli.server import connect

PROCESSES = 4

NOTEBOOK = """
import asyncio
from tiercache import Cache
cache = Cache(URL, namespace=NAMESPACE)
cell = cache.cached("cell:{n}")(lambda n: n * n)
acell = lambda n: cache.aget_or_load(f"acell:{n}", lambda: asyncio.sleep(0, n * n))
print(cell(2), await acell(3), cache.get("cell:2"), await cache.aget("acell:3"))
print(await asyncio.gather(*[acell(n) for n in range(4)]))
print(cache.get_or_load("acell:3", lambda: "again"), cache.stats()["loads"])
await cache.aclose()
"""

SCRIPT = """
import asyncio
from tiercache import Cache
cache = Cache(URL, namespace=NAMESPACE)
started = []
@cache.cached("quick", ttl=0.001, jitter=0, stale_while_revalidate=60)
async def quick():
    started.append(1)
    if len(started) > 1:
        await asyncio.sleep(300)
    return "quick"
async def first():
    return await quick()
async def second():
    while len(started) < 2:
        seen = await quick()
        await asyncio.sleep(0.001)
    return seen
print(asyncio.run(first()), asyncio.run(second()), asyncio.run(first()))
"""


def run(*arguments: str, program: str = "", cwd: Path = HERE) -> Any:
    """What a Python to which every warning is an error says."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=program,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_report_of_the_page(method: str) -> None:
    """docs/scripts.md shows it: four processes wait for one load, and each has one event loop after another."""
    pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")
    with RedisServer() as redis, a_supplier() as supplier, redis.client() as client:
        go = supplier.hold("/offer")
        env = {**os.environ, "SHOP_CACHE_URL": redis.tcp_url, "SHOP_SUPPLIER": supplier.url}
        command = [sys.executable, "-W", "error", "report.py", method]
        with subprocess.Popen(command, cwd=HERE, env=env, stdout=PIPE, stderr=PIPE, text=True) as report:
            until(lambda: client.hlen("tc1:{shop:offer}:l") == 1 + PROCESSES, "the other processes")
            go.set()
            said, complaints = report.communicate(timeout=60)
        paths = "/offer, /items/1, /items/2, /items/3"
        assert said.splitlines() == [*(f"customer {n}: {paths}" for n in range(20)), f"customer 20: {paths} 0"]
        assert (report.returncode, complaints) == (0, "")
        assert supplier.calls == dict.fromkeys(paths.split(", "), 1)
        assert list(client.scan_iter("tc1:*:l")) == []
        until(lambda: len(client.client_list()) == 1, "the end of every other connection")


def filled_in(program: str, server: RedisServer, namespace: str) -> str:
    return program.replace("URL", repr(server.url)).replace("NAMESPACE", repr(namespace))


def test_a_notebook_mixes_both_colours(redis_server: RedisServer, namespace: str) -> None:
    """Cells run on a thread whose loop is running, as in Jupyter: here Python's own REPL with top-level await."""
    done = run("-m", "asyncio", program=filled_in(NOTEBOOK, redis_server, namespace))
    printed = [line for line in done.stdout.replace(">>> ", "").splitlines() if line]
    assert printed == ["4 9 4 9", "[0, 1, 4, 9]", "9 5"], done.stderr
    assert not {"Traceback", "Warning", "never"} & set(done.stderr.replace(":", " ").split()), done.stderr


def test_loops_end_while_a_refresh_is_under_way(redis_server: RedisServer, namespace: str) -> None:
    """Several asyncio.run, of which one ends in the middle of a refresh: the next is served, and nobody complains."""
    done = run("-c", filled_in(SCRIPT, redis_server, namespace))
    assert (done.returncode, done.stdout, done.stderr) == (0, "quick quick quick\n", "")
    with redis_server.client() as client:
        until(lambda: not client.exists(f"tc1:{{{namespace}:quick}}:l"), "the end of the lease")


# Pools: each of their processes has a cache named `shared`.

shared: Cache | None = None


def set_up(url: str, namespace: str) -> None:
    global shared
    if shared is None:  # a forked child has its parent's
        shared = Cache(url, namespace=namespace, connect_timeout=2, call_timeout=2, call_budget=5)
    shared.ping()


def work(url: str, namespace: str) -> str:
    """The popular value, loaded by whoever comes first, once all other processes wait for it."""
    assert shared is not None
    with connect(url) as client:

        def load() -> str:
            client.incr(f"loads:{namespace}")
            until(lambda: client.hlen(f"tc1:{{{namespace}:popular}}:l") == 1 + PROCESSES, "the other processes")
            return f"by {os.getpid()}"

        return shared.get_or_load("popular", load)


@contextmanager
def futures_pool(context: Any, *arguments: str) -> Iterator[Callable[..., list[str]]]:
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=set_up, initargs=arguments) as pool:
        yield lambda: [each.result(60) for each in [pool.submit(work, *arguments) for _ in range(40)]]


@contextmanager
def plain_pool(context: Any, *arguments: str) -> Iterator[Callable[..., list[str]]]:
    pool = context.Pool(PROCESSES, set_up, arguments)
    try:
        yield lambda: pool.starmap_async(work, [arguments] * 40, chunksize=1).get(60)
        pool.close()
    finally:
        pool.terminate()
        pool.join()


@pytest.mark.parametrize("pool", [futures_pool, plain_pool])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_pool_of_processes_loads_once(pool: Any, method: str, redis_server: RedisServer, namespace: str) -> None:
    """40 tasks in 4 processes, whatever the start method; under fork they begin with the parent's connected cache."""
    global shared
    arguments = redis_server.url, namespace
    set_up(*arguments)
    assert shared is not None
    try:
        with pool(multiprocessing.get_context(method), *arguments) as results:
            values = results()
        assert len(values) == 40
        assert len(set(values)) == 1
        assert values[0] != f"by {os.getpid()}"
        assert shared.get("popular") == values[0]
        with redis_server.client() as client:
            assert client.getdel(f"loads:{namespace}") == b"1"
            assert not client.exists(f"tc1:{{{namespace}:popular}}:l")
    finally:
        shared.close()
        shared = None
