"""The figures that tiercache promises, each beside its yardstick in the same run: python benchmarks/figures.py

A ratio is the smallest of several runs of ours over the smallest of the yardstick's, taken in turn; the herd's
last waiter is the median of five herds. `--quick` leaves out the million entries and runs one herd of each kind.
"""

import argparse
import asyncio
import gc
import platform
import signal
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fleet
import msgpack
import redis
from redis_server import RedisServer
from test_herd import Monitor
from test_hits import load, lru_cached
from test_tier2 import VALUE

from tiercache import Cache


def fastest(
    ours: Callable[[int], float], theirs: Callable[[int], float], times: int, rounds: int = 15
) -> tuple[float, float]:
    """Seconds per call of both, measured in turn."""
    both = [(ours(times), theirs(times)) for _ in range(rounds)]
    return min(each[0] for each in both) / times, min(each[1] for each in both) / times


def timed(statement: str, **names: Any) -> Callable[[int], float]:
    import timeit

    return timeit.Timer(statement, globals=names).timeit


def awaited(call: Any) -> Callable[[int], float]:
    async def main(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            await call(42)
        return time.perf_counter() - start

    return lambda times: asyncio.run(main(times))


def show(what: str, value: str, goal: str) -> None:
    print(f"{what:<66} {value:>22}   goal {goal}", flush=True)


def hits() -> None:
    cache = Cache()
    cache.set("key", 1, ttl=3600)
    lru_cached("key")

    @cache.cached("item:{item_id}", ttl=3600)
    async def get_item(item_id: int) -> int:
        return item_id

    async def bare(item_id: int) -> None:
        pass

    asyncio.run(asyncio.wait_for(get_item(42), 5))
    yardstick = timed("f('key')", f=lru_cached)
    for name, statement, goal in (
        ("get", "c.get('key')", "-"),
        ("get_or_load", "c.get_or_load('key', load)", "1.5"),
        ("get_or_load with ttl=", "c.get_or_load('key', load, ttl=60)", "-"),
    ):
        ours, theirs = fastest(timed(statement, c=cache, load=load), yardstick, 200_000)
        show(
            f"{name}: hit / functools.lru_cache's",
            f"{ours / theirs:.2f} ({ours * 1e9:.0f}/{theirs * 1e9:.0f} ns)",
            goal,
        )
    ours, theirs = fastest(awaited(get_item), awaited(bare), 100_000)
    show(
        "awaited decorated hit / awaiting an empty coroutine",
        f"{ours / theirs:.2f} ({ours * 1e9:.0f}/{theirs * 1e9:.0f} ns)",
        "3",
    )


def tier2(server: RedisServer) -> None:
    client = server.client()
    client.set("plain", msgpack.packb(VALUE))
    with Cache(server.url, namespace="figures") as cache:
        cache.set("key", VALUE, ttl=3600)
        cut, get = cache.table.cut, cache.get
        ours, theirs = fastest(
            timed("cut('key'); get('key')", cut=cut, get=get),
            timed("unpackb(get('plain'))", unpackb=msgpack.unpackb, get=client.get),
            2000,
        )
    show(
        "tier-2 hit / redis.Redis.get + unpackb", f"{ours / theirs:.2f} ({ours * 1e6:.0f}/{theirs * 1e6:.0f} µs)", "1.3"
    )


def memory(entries: int) -> None:
    cache = Cache(max_entries=entries)
    keys = [f"key:{number}" for number in range(entries)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for start in range(0, entries, 10_000):
        cache.set_many(dict.fromkeys(keys[start : start + 10_000], VALUE), ttl=3600)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    show(f"bytes per tier-1 entry beyond key and value, {entries:,} entries", f"{used / entries:.1f}", "140")


def herd(server: RedisServer, colour: str, number: int) -> tuple[int, int, float]:
    """Loads, commands per process, and milliseconds from the load's end to the last answer."""
    namespace = f"{colour}{number}"
    members = [fleet.Member(fleet.herd, server.url, namespace, colour, 250, 1.0) for _ in range(4)]
    for member in members:
        member.hear()
    monitor = Monitor(server)
    for member in members:
        member.tell()
    results = [member.hear() for member in members]
    commands = monitor.stop(server)
    for member in members:
        member.end()
    with server.client() as client:
        loads = int(client.get(f"loads:{namespace}"))
    return loads, len(commands), max(max(waits) for waits, _ in results) * 1000


def bare(server: RedisServer) -> float:
    """Milliseconds until the last of 4 x 250 threads runs that wait on nothing but a threading.Event."""
    members = [fleet.Member(fleet.bare_event, server.url, "bare", 250) for _ in range(4)]
    for member in members:
        member.hear()
    time.sleep(0.5)  # every thread is to wait by then
    for member in members:
        member.tell()
    last = max(member.hear() for member in members)
    for member in members:
        member.end()
    return float(last * 1000)


def herds(server: RedisServer, runs: int) -> None:
    for colour, goal in (("threads", "50"), ("tasks", "20")):
        yardstick = []
        results = []
        for number in range(runs):
            results.append(herd(server, colour, number))
            if colour == "threads":
                yardstick.append(bare(server))
        show(f"cold herd 4 x 250 {colour}, 1 s load: loader calls, most", str(max(each[0] for each in results)), "1")
        show("... Redis commands, all 4 processes, most", str(max(each[1] for each in results)), "24")
        show(
            f"... last waiter after the load, ms, median of {runs}",
            f"{statistics.median(each[2] for each in results):.1f}",
            goal,
        )
        if yardstick:
            show("... the same for 4 x 250 bare threading.Event waiters", f"{statistics.median(yardstick):.1f}", "-")


def killed(server: RedisServer) -> None:
    policy = {"max_load": 120.0}
    holder = fleet.Member(fleet.holder, server.url, "killed", policy)
    holder.hear()
    waiter = fleet.Member(fleet.waiter, server.url, "killed", policy)
    waiter.hear()
    start = time.monotonic()
    holder.signal(signal.SIGKILL)
    _, led, _ = waiter.hear()
    holder.end()
    waiter.end()
    show("holder killed during a load: seconds until another leads", f"{led - start:.2f}", "3.5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100,000 entries and one herd of each kind")
    quick = parser.parse_args().quick
    print(f"CPython {platform.python_version()}, redis-py {redis.__version__}, {platform.machine()}")
    hits()
    memory(100_000 if quick else 1_000_000)
    with RedisServer() as server:
        tier2(server)
        killed(server)
        herds(server, 1 if quick else 5)


if __name__ == "__main__":
    main()
