"""Flask under gunicorn --preload with 2 workers of 8 threads, over real HTTP, while workers come and go."""

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from apps import serving
from apps.serving import Serving, until
from redis_server import RedisServer

for module in ("flask", "gunicorn", "sqlalchemy"):
    pytest.importorskip(module, reason=f"{module} is not installed (extra apps)")
httpx = pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")

THREADS = ["--threads", "8", "--graceful-timeout", "60"]
ITEMS = 50


class Shop:
    """The served application, its database and its Redis."""

    def __init__(self, server: Serving, database: Path, redis: RedisServer) -> None:
        self.server, self.database, self.redis = server, database, redis

    def get(self, path: str) -> Any:
        return httpx.get(self.server.url + path, timeout=60, verify=False)

    def healths(self) -> dict[int, Any]:
        """What /health says in each worker, by its process: it is asked until two have answered."""
        seen: dict[int, Any] = {}

        def asked() -> bool:
            answer = self.get("/health")
            assert answer.status_code == 200
            seen[answer.json()["pid"]] = answer.json()
            return len(seen) == 2

        until(asked, "an answer of each worker")
        return seen

    def loads(self) -> Counter[str]:
        """How often each thing was loaded, in all processes, as the application logged it."""
        return Counter(line.partition("loading ")[2] for line in self.server.log.splitlines() if "loading " in line)

    def visits(self, paths: list[str], going: Callable[[], object]) -> list[int]:
        """The status of many requests at once, each on its own connection, while `going` runs.

        A worker of gunicorn that ends may reset connections that it has just accepted (its issue 3038): such a
        request is sent again, as proxies do.
        """

        async def visit(client: Any, path: str) -> int:
            while True:
                try:
                    return (await client.get(path)).status_code
                except (httpx.ReadError, httpx.RemoteProtocolError):
                    pass

        async def main() -> list[int]:
            options: Any = {"timeout": 60, "verify": False, "headers": {"Connection": "close"}}
            async with httpx.AsyncClient(base_url=self.server.url, **options) as client:
                requests = [asyncio.create_task(visit(client, path)) for path in paths]
                await asyncio.to_thread(going)
                return await asyncio.gather(*requests)

        return asyncio.run(main())

    @contextmanager
    def locked(self) -> Iterator[Any]:
        """The database, on which every query waits meanwhile."""
        with closing(
            sqlite3.connect(self.database, isolation_level=None, timeout=60, check_same_thread=False)
        ) as database:
            database.execute("BEGIN EXCLUSIVE")
            yield database
            database.execute("COMMIT")


@contextmanager
def serve(folder: Path, *options: str) -> Iterator[Shop]:
    """A shop of 50 items; once it has stopped nothing is left, and no one complained."""
    database = folder / "shop.db"
    with closing(sqlite3.connect(database)) as made, made:
        made.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL)")
        made.executemany("INSERT INTO item VALUES (?, ?, ?)", [(n, f"item {n}", 100 * n) for n in range(1, ITEMS + 1)])
    with RedisServer() as redis:
        env = {"SHOP_CACHE_URL": redis.tcp_url, "SHOP_DATABASE": f"sqlite:///{database}"}
        with serving.gunicorn("flask_shop:app", folder / "log", *THREADS, *options, **env) as server:
            yield Shop(server, database, redis)
        assert server.code == 0
        assert server.complaints == []
        with redis.client() as client:
            names = list(client.scan_iter())
            assert [name for name in names if name.endswith(b":l") or client.ttl(name) == -1] == []


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with serve(tmp_path_factory.mktemp("flask")) as shop:
        yield shop


def test_a_herd_over_both_workers_loads_once(shop: Shop, record_property: Callable[[str, object], None]) -> None:
    """200 requests wait for one query, in both workers: it is made once."""
    with shop.locked() as database, shop.redis.client() as redis:

        def both_wait() -> None:
            until(lambda: redis.hlen("tc1:{shop:item:1}:l") == 3, "the other worker")
            database.execute("COMMIT")
            database.execute("BEGIN")

        assert shop.visits(["/items/1"] * 200, both_wait) == [200] * 200
    assert shop.get("/items/1").json() == {"name": "item 1", "price": "1.00 EUR"}
    assert shop.loads()["item 1"] == 1
    record_property("flask_requests", 200)
    record_property("flask_loads", shop.loads()["item 1"])


def test_a_refresh_behind_the_response_has_context_and_session(shop: Shop) -> None:
    """It runs on a thread that Flask knows nothing of; nobody waits for it, and its connection goes back."""
    assert shop.get("/offer").json()["name"] == "item 1"
    with shop.locked() as database:
        database.execute("INSERT INTO item VALUES (999, 'bargain', 1)")
        until(lambda: shop.get("/offer").json()["name"] == "item 1" and "on tiercache-refresh" in shop.server.log)
    until(lambda: shop.get("/offer").json() == {"name": "bargain", "price": "0.01 EUR"}, "the refresh")
    with shop.redis.client() as redis:
        until(lambda: not redis.exists("tc1:{shop:offer}:l"), "the end of any other")
    assert {health["database_connections"] for health in shop.healths().values()} == {0}


def test_a_write_is_seen_by_both_workers(shop: Shop) -> None:
    """Invalidated after the commit; an absent item is one query."""
    assert [shop.get("/items/777").status_code for _ in range(5)] == [404] * 5
    assert shop.loads()["item 777"] == 1
    body = {"name": "new", "cents": 250}
    assert httpx.put(shop.server.url + "/items/777", json=body, timeout=60, verify=False).status_code == 200
    until(lambda: [shop.get("/items/777").status_code for _ in range(10)] == [200] * 10, "the news")
    assert shop.loads()["item 777"] == 2


def test_workers_that_are_replaced_load_nothing_again(tmp_path: Path) -> None:
    """--max-requests ends a worker every few dozen requests: all are answered, each item is loaded once."""
    with serve(tmp_path, "--max-requests", "30", "--max-requests-jitter", "10") as shop:
        paths = [f"/items/{1 + n % ITEMS}" for n in range(200)]
        assert shop.visits(paths, lambda: None) == [200] * 200
        until(lambda: shop.server.log.count("Booting worker") >= 4, "new workers")
        assert shop.visits(paths, lambda: None) == [200] * 200
        assert set(shop.loads().values()) == {1}
        assert len(shop.loads()) == ITEMS


def test_a_reload_under_load_loses_no_request(tmp_path: Path) -> None:
    """SIGHUP while a herd waits for a query: the old workers answer it, the new ones find the value."""
    with serve(tmp_path) as shop:
        old = set(shop.healths())
        with shop.locked() as database:

            def reload() -> None:
                until(lambda: "item 1" in shop.loads(), "the load")
                shop.server.process.send_signal(signal.SIGHUP)
                until(lambda: shop.server.log.count("Booting worker") >= 4, "new workers")
                database.execute("COMMIT")
                database.execute("BEGIN")

            assert shop.visits(["/items/1"] * 100, reload) == [200] * 100
        until(lambda: not set(shop.healths()) & old, "the end of the old workers")
        assert shop.get("/items/1").status_code == 200
        assert shop.loads() == {"item 1": 1}
