"""Celery workers, forked and threaded, on a real Redis broker: tasks that need one value load it once."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from apps import serving
from apps.serving import Serving, Supplier, until
from redis_server import RedisServer

celery = pytest.importorskip("celery", reason="Celery is not installed (extra apps)")
pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")

POOLS = {"prefork": 3, "threads": 0}  # how many other processes wait for a load


class Shop:
    """A worker of four, its supplier, its Redis, and a client of its queue."""

    def __init__(self, worker: Serving, supplier: Supplier, redis: RedisServer, client: Any) -> None:
        self.worker, self.supplier, self.redis, self.client = worker, supplier, redis, client

    def send(self, task: str, *args: object) -> Any:
        return self.client.send_task(f"celery_shop.{task}", args)

    def advertise(self, item_id: int, customers: int) -> list[Any]:
        return [self.send("advertise", item_id, f"customer {n}") for n in range(customers)]

    def lease(self, item_id: int) -> int:
        """How many fields the item's lease has: two, and one for each process that waits."""
        with self.redis.client() as client:
            return int(client.hlen(f"tc1:{{shop:item:{item_id}}}:l"))


@contextmanager
def a_supplied_redis() -> Iterator[tuple[RedisServer, Supplier, dict[str, str]]]:
    with RedisServer() as redis, serving.a_supplier() as supplier:
        broker = redis.tcp_url.removesuffix("0") + "1"
        yield (
            redis,
            supplier,
            {"SHOP_CACHE_URL": redis.tcp_url, "SHOP_SUPPLIER": supplier.url, "SHOP_BROKER_URL": broker},
        )


@contextmanager
def work(pool: str, folder: Path) -> Iterator[Shop]:
    """A worker; once it has stopped no lease is left, and no one complained."""
    with a_supplied_redis() as (redis, supplier, env):
        broker = env["SHOP_BROKER_URL"]
        client = celery.Celery("test", broker=broker, backend=broker, set_as_current=False)
        with serving.celery("celery_shop", folder / "log", "--pool", pool, "--concurrency", "4", **env) as worker:
            try:
                yield Shop(worker, supplier, redis, client)
            finally:
                client.backend.result_consumer.stop()
                client.backend.client.connection_pool.disconnect()
                client.close()
        assert worker.complaints == []
        with redis.client() as names:
            assert [name for name in names.scan_iter("tc1:*") if name.endswith(b":l") or names.ttl(name) == -1] == []


@pytest.fixture(scope="module", params=POOLS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with work(request.param, tmp_path_factory.mktemp("celery")) as shop:
        shop.others = POOLS[request.param]
        yield shop


def test_a_hundred_tasks_load_once(shop: Any, record_property: Callable[[str, object], None]) -> None:
    """In children that were forked with a connected cache, or in threads."""
    go = shop.supplier.hold("/items/1")
    results = shop.advertise(1, 100)
    until(lambda: shop.lease(1) == 2 + shop.others, "the waiting tasks")
    go.set()
    texts = [result.get(60) for result in results]
    assert texts == [f"Dear customer {n}, buy {{'path': '/items/1', 'call': 1}}" for n in range(100)]
    assert shop.supplier.calls["/items/1"] == 1
    assert shop.worker.log.count("loading item 1\n") == 1
    record_property("celery_tasks", 100)
    record_property("celery_loads", shop.supplier.calls["/items/1"])


def test_what_one_task_invalidates_all_load_anew(shop: Any) -> None:
    """Once: the children hear of it by themselves."""
    assert {result.get(60)[-2] for result in shop.advertise(2, 20)} == {"1"}
    shop.send("item_changed", 2).get(60)
    until(lambda: {result.get(60)[-2] for result in shop.advertise(2, 20)} == {"2"}, "the news")
    assert shop.supplier.calls["/items/2"] == 2


@pytest.mark.parametrize("pool", POOLS)
def test_a_warm_shutdown_ends_the_load_first(pool: str, tmp_path: Path) -> None:
    """SIGTERM in the middle of a load: the tasks that wait for it are done, then the worker ends."""
    with work(pool, tmp_path) as shop:
        go = shop.supplier.hold("/items/1")
        results = shop.advertise(1, 4)
        until(lambda: shop.worker.log.count(" received\n") == 4, "the tasks")
        until(lambda: shop.lease(1) == 2 + POOLS[pool], "the waiting tasks")
        shop.worker.process.send_signal(signal.SIGTERM)
        until(lambda: "Warm shutdown" in shop.worker.log, "the shutdown")
        go.set()
        assert len([result.get(60) for result in results]) == 4
        assert shop.supplier.calls["/items/1"] == 1


def test_a_cold_shutdown_leaves_no_lease(tmp_path: Path) -> None:
    """SIGQUIT kills the children in the middle of a load; the lease is over soon, and somebody else can load."""
    with work("prefork", tmp_path) as shop:
        shop.supplier.hold("/items/1")
        shop.advertise(1, 1)
        until(lambda: shop.lease(1) == 2, "the load")
        shop.worker.process.send_signal(signal.SIGQUIT)
        shop.worker.process.wait(60)
        until(lambda: shop.lease(1) == 0, "the end of the lease")


def test_eager_tasks_read_through_the_cache() -> None:
    """`task_always_eager`, as in a test suite: they run in the caller's process, and nothing is said at its end."""
    program = (
        "from celery_shop import advertise, app\n"
        "app.conf.task_always_eager = True\n"
        "print({advertise.delay(1, 'you').get() for _ in range(10)})\n"
    )
    with a_supplied_redis() as (_, supplier, env):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**serving.environment(serving.HERE), **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "{\"Dear you, buy {'path': '/items/1', 'call': 1}\"}\n"
        assert supplier.calls["/items/1"] == 1
