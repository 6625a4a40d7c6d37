"""A process of the herd: its callers ask for one expired item in one of four ways, the arms.

herd.py starts it, with a job on stdin; a report goes to stdout.
"""

import asyncio
import contextlib
import json
import resource
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from tiercache.cli.callers import Callers, Item, Job
from tiercache.cli.journal import Journal

if TYPE_CHECKING:
    from tiercache import Cache

TTL_SECONDS = 60
RETRY_SECONDS = 0.1
LOCK_MILLISECONDS = 10_000
_UNLOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


def unprotected(callers: Callers) -> None:
    """Every caller that misses queries."""
    client = _client(callers.job)
    key = f"{callers.job.mark}:popular"

    def ask() -> Item:
        if (cached := client.get(key)) is not None:
            return _decoded(cached)
        item = callers.query()
        client.set(key, json.dumps(item), ex=TTL_SECONDS)
        return item

    callers.in_threads(ask, _pool_filler(client, callers))
    _wait_for_the_end(callers)
    client.close()


def lock_and_retry(callers: Callers) -> None:
    """The well-known recipe: get, else SET NX a lock and query, else sleep 100 ms and try again."""
    client = _client(callers.job)
    key = f"{callers.job.mark}:popular"
    unlock = client.register_script(_UNLOCK)

    def ask() -> Item:
        token = secrets.token_hex(16)
        while True:
            if (cached := client.get(key)) is not None:
                return _decoded(cached)
            if client.set(f"{key}:lock", token, nx=True, px=LOCK_MILLISECONDS):
                break
            time.sleep(RETRY_SECONDS)
        try:
            if (cached := client.get(key)) is not None:
                return _decoded(cached)
            item = callers.query()
            client.set(key, json.dumps(item), ex=TTL_SECONDS)
            return item
        finally:
            unlock(keys=[f"{key}:lock"], args=[token])

    callers.in_threads(ask, _pool_filler(client, callers))
    _wait_for_the_end(callers)
    client.close()


def tiercache_threads(callers: Callers) -> None:
    """tiercache, asked from threads."""
    warm_key = f"warm-up-{callers.job.index}"
    with _cache(callers.job) as cache:
        cache.get_or_load(warm_key, lambda: 0)
        callers.in_threads(lambda: cache.get_or_load("popular", callers.query), lambda: None)
        callers.stats = _counters(cache)
        _wait_for_the_end(callers)


def tiercache_asyncio(callers: Callers) -> None:
    """tiercache, asked from tasks of one event loop per process."""
    asyncio.run(_ask_in_tasks(callers))


async def _ask_in_tasks(callers: Callers) -> None:
    warm_key = f"warm-up-{callers.job.index}"
    async with _cache(callers.job) as cache:
        await callers.in_tasks(
            lambda: cache.aget_or_load("popular", callers.query),
            lambda: cache.aget_or_load(warm_key, lambda: 0),
        )
        callers.stats = _counters(cache)
        await asyncio.to_thread(_wait_for_the_end, callers)


def _client(job: Job) -> redis.Redis:
    return redis.Redis.from_url(job.url, max_connections=job.callers + 1)


def _pool_filler(client: redis.Redis, callers: Callers) -> Callable[[], object]:
    """A warm-up after which the pool has a connection for every caller, as after a while in service."""
    all_connected = threading.Barrier(callers.job.callers, timeout=30)

    def fill() -> None:
        try:
            with client.pipeline() as connection:
                connection.watch(f"{callers.job.mark}:warm-up")  # type: ignore[no-untyped-call]  # redis-py's
                all_connected.wait()
        except redis.RedisError:
            all_connected.abort()
            raise

    return fill


def _decoded(cached: Any) -> Item:
    item: Item = json.loads(cached)
    return item


def _cache(job: Job) -> "Cache":
    from tiercache import Cache, Policy

    return Cache(job.url, namespace=job.mark, policy=Policy(ttl=TTL_SECONDS))


def _counters(cache: "Cache") -> dict[str, int]:
    return {name: int(count) for name, count in dict(cache.stats()).items()}


def _wait_for_the_end(callers: Callers) -> None:
    callers.section.done()
    callers.end.wait()


ARMS: dict[str, Callable[[Callers], None]] = {
    "unprotected": unprotected,
    "lock-and-retry": lock_and_retry,
    "tiercache-threads": tiercache_threads,
    "tiercache-asyncio": tiercache_asyncio,
}


def main() -> None:
    """Run one process of the herd."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the demo decides
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    job = Job(**json.loads(sys.stdin.readline()))
    with Journal(Path(job.journal), job.processes, job.callers) as journal:
        callers = Callers(job, journal.sections[job.index])
        threading.Thread(target=callers.listen, daemon=True).start()
        ARMS[job.arm](callers)
        print(json.dumps({"errors": callers.errors[:3], "failed": len(callers.errors), "stats": callers.stats}))
