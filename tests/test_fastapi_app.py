"""FastAPI under uvicorn with two workers, over real HTTP: one load per key, and nothing is left at the end."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from apps import serving
from apps.serving import Serving, Supplier, until
from redis_server import RedisServer
from test_flow import BYPASSES

import tiercache

pytest.importorskip("fastapi", reason="FastAPI is not installed (extra apps)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra apps)")
httpx = pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")

HERD = 500


class Shop:
    """The served application, its supplier and its Redis."""

    def __init__(self, server: Serving, supplier: Supplier, redis: RedisServer) -> None:
        self.server, self.supplier, self.redis = server, supplier, redis
        self.open = ExitStack()

    def get(self, path: str) -> Any:
        return httpx.get(self.server.url + path, timeout=60, verify=False)

    @contextmanager
    def clients(self) -> Iterator[list[Any]]:
        """A client of each worker, whose connection stays with that worker."""
        found: dict[str, Any] = {}
        with ExitStack() as stack:

            def reached() -> bool:
                client = stack.enter_context(httpx.Client(base_url=self.server.url, timeout=60, verify=False))
                found.setdefault(client.get("/health").headers["x-pid"], client)
                return len(found) == 2

            until(reached, "an answer of each worker")
            yield [found[pid] for pid in sorted(found)]

    def healths(self) -> list[Any]:
        """Each worker's answer to `/health`."""
        with self.clients() as clients:
            return [client.get("/health") for client in clients]

    def stats(self) -> Counter[str]:
        """The counters of both workers, added up."""
        total: Counter[str] = Counter()
        for answer in self.healths():
            assert answer.status_code == 200
            total.update(answer.json())
        return total

    def tasks(self) -> int:
        return sum(json.loads(answer.headers["x-holds"])["tasks"] for answer in self.healths())

    def leases(self) -> list[bytes]:
        with self.redis.client() as client:
            return list(client.scan_iter("tc1:{shop:*:l"))

    def leave(self, requests: list[socket.socket]) -> None:
        for request in requests:
            request.close()

    def request(self, path: str) -> socket.socket:
        """A request whose answer nobody has read yet."""
        request = self.open.enter_context(socket.create_connection(("127.0.0.1", self.server.port), timeout=60))
        request.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
        return request


@contextmanager
def serve(loop: str, log: Path) -> Iterator[Shop]:
    """Two workers; once they have stopped nothing is left, and no one complained."""
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed (extra apps)")
    with RedisServer() as redis, serving.a_supplier() as supplier:
        env = {"SHOP_CACHE_URL": redis.tcp_url, "SHOP_SUPPLIER": supplier.url}
        options = ["--factory", "--loop", loop, "--timeout-keep-alive", "60"]
        with serving.uvicorn("serving:watched", log, *options, **env) as server:
            shop = Shop(server, supplier, redis)
            with shop.open:
                yield shop
        left = [json.loads(line[5:]) for line in server.log.splitlines() if line.startswith("LEFT ")]
        assert [(each["connections"], each["threads"], each["tasks"]) for each in left] == [(0, [], [])] * 2
        assert {each["tiercache"] for each in left} == {tiercache.__file__}
        assert server.complaints == []
        assert shop.leases() == []
        with redis.client() as client:
            assert [name for name in client.scan_iter() if client.ttl(name) == -1] == []


LOOPS = ["asyncio", "uvloop"]


@pytest.fixture(scope="module", params=LOOPS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with serve(request.param, tmp_path_factory.mktemp("fastapi") / "log") as shop:
        yield shop


def test_a_herd_over_both_workers_loads_once(shop: Shop, record_property: Callable[[str, object], None]) -> None:
    """500 requests wait for one item, in async endpoints and in threads, on both workers: one load."""
    before, go = shop.stats(), shop.supplier.hold("/items/1")

    async def herd() -> list[Any]:
        options: Any = {"timeout": 60, "verify": False, "limits": httpx.Limits(max_connections=None)}
        async with httpx.AsyncClient(base_url=shop.server.url, **options) as client:
            paths = ["/threads/1" if n % 25 == 0 else "/items/1" for n in range(HERD)]
            requests = [asyncio.create_task(client.get(path)) for path in paths]
            try:
                await asyncio.to_thread(until, lambda: (shop.stats() - before)["joins"] >= HERD - 2, "the herd")
            finally:
                go.set()
            return await asyncio.gather(*requests)

    answers = asyncio.run(herd())
    assert [answer.status_code for answer in answers] == [200] * HERD
    assert {answer.text for answer in answers} == {'{"path":"/items/1","call":1}'}
    assert len({answer.headers["x-pid"] for answer in answers}) == 2
    assert shop.supplier.calls["/items/1"] == 1
    stats = shop.stats() - before
    assert (stats["loads"], stats["grants"], stats["commits"], stats["waits"]) == (1, 1, 1, 1)
    assert not any(stats[name] for name in BYPASSES), stats
    record_property("fastapi_requests", HERD)
    record_property("fastapi_loads", stats["loads"])
    for holds in (json.loads(answer.headers["x-holds"]) for answer in shop.healths()):
        # The inbox, the loop, and 16 for all threads.
        assert 2 <= holds["connections"] <= 18
        assert "tiercache-inbox" in holds["threads"]


def test_an_absent_item_is_asked_for_once(shop: Shop) -> None:
    """The dependency answers 404 from the cached None, whichever worker is asked."""
    with shop.clients() as clients:
        assert [client.get("/items/404").status_code for client in clients * 3] == [404] * 6
    assert shop.supplier.calls["/items/404"] == 1


def test_what_one_worker_forgets_the_other_loads_anew(shop: Shop) -> None:
    """Once the message has arrived; the two load it once."""
    with shop.clients() as (one, other):
        assert [each.get("/items/2").json()["call"] for each in (one, other)] == [1, 1]
        assert one.delete("/items/2").status_code == 200
        assert one.get("/items/2").json()["call"] == 2
        until(lambda: other.get("/items/2").json()["call"] == 2, "the news")
    assert shop.supplier.calls["/items/2"] == 2


def test_a_sync_helper_does_not_wait_for_a_load_on_its_own_loop(shop: Shop) -> None:
    """Called in an async endpoint while the loop loads the same key: it loads by itself, and is counted."""
    before, go = shop.stats(), shop.supplier.hold("/items/3")
    with shop.clients() as (one, _), ThreadPoolExecutor() as pool:
        loading = pool.submit(one.get, "/items/3")
        until(lambda: shop.supplier.calls["/items/3"] == 1, "the load")
        with shop.clients() as (helped, _):
            assert helped.get("/helpers/3").json()["call"] == 2
        go.set()
        assert loading.result(60).json()["call"] == 1
        assert one.get("/helpers/3").json()["call"] == 1
    assert (shop.stats() - before)["bypass_loop"] == 1


def test_sync_helpers_of_two_workers_do_not_wait_for_each_other(shop: Shop) -> None:
    """Each blocks its loop for a load that runs on the other's: both go on after `nested_wait`, not `max_load`."""
    held = [shop.supplier.hold("/items/4"), shop.supplier.hold("/items/5")]
    with shop.clients() as (one, other), shop.clients() as helped, ThreadPoolExecutor() as pool:
        loading = [pool.submit(one.get, "/items/4"), pool.submit(other.get, "/items/5")]
        until(lambda: shop.supplier.calls["/items/4"] == shop.supplier.calls["/items/5"] == 1, "the loads")
        waiting = [pool.submit(helped[0].get, "/helpers/5"), pool.submit(helped[1].get, "/helpers/4")]
        with shop.redis.client() as client:
            until(lambda: all(client.hlen(f"tc1:{{shop:item:{n}}}:l") == 3 for n in (4, 5)), "the waiters")
        for go in held:
            go.set()
        assert [each.result(30).status_code for each in (*loading, *waiting)] == [200] * 4


def test_a_load_outlives_the_clients_that_asked_for_it(shop: Shop) -> None:
    """An endpoint is not told that its client has gone: the load ends and its value is kept."""
    before, go = shop.stats(), shop.supplier.hold("/items/6")
    requests = [shop.request(path) for path in ("/items/6", "/threads/6") for _ in range(10)]
    until(lambda: (shop.stats() - before)["joins"] >= len(requests) - 2, "the callers")
    shop.leave(requests)
    go.set()
    assert shop.get("/items/6").json()["call"] == 1
    assert shop.supplier.calls["/items/6"] == 1


def test_a_client_that_leaves_takes_nothing_from_the_others(shop: Shop) -> None:
    """A stream's load is cancelled with its client, but not while another client waits for it."""
    go = shop.supplier.hold("/items/7")
    with shop.request("/feeds/7") as stays:
        until(lambda: shop.supplier.calls["/items/7"] == 1, "the load")
        before, tasks = shop.stats(), shop.tasks()
        leavers = [shop.request("/feeds/7") for _ in range(10)]
        until(lambda: (shop.stats() - before)["joins"] >= 9, "the leavers")
        assert shop.tasks() > tasks
        shop.leave(leavers)
        until(lambda: shop.tasks() <= tasks + 1, "their end")
        go.set()
        with stays.makefile("rb") as answer:
            assert any(b"'call': 1" in line for line in answer)
    assert shop.supplier.calls["/items/7"] == 1


def test_when_all_clients_have_left_the_lease_is_free(shop: Shop) -> None:
    """Both workers' streams are cancelled; the next request loads at once though the old call still hangs."""
    before, go = shop.stats(), shop.supplier.hold("/items/8")
    leavers = [shop.request("/feeds/8") for _ in range(10)]
    until(lambda: (shop.stats() - before)["joins"] >= 8, "the leavers")
    shop.leave(leavers)
    until(lambda: not shop.leases(), "the end of the lease")
    assert shop.get("/items/8").json()["call"] == 2
    assert (shop.stats() - before)["loads_abandoned"] >= 1
    go.set()


def refresh(shop: Shop) -> Any:
    """A refresh of the offer that runs behind; the event ends it."""
    shown = shop.get("/offer").json()["call"]
    go = shop.supplier.hold("/offer")
    until(lambda: shop.get("/offer").json()["call"] == shown < shop.supplier.calls["/offer"], "a refresh")
    return go


def test_a_refresh_runs_behind_the_response(shop: Shop) -> None:
    """Every worker shows the old offer while one of them, and only one, asks for the new one."""
    go = refresh(shop)
    asked = shop.supplier.calls["/offer"]
    with shop.clients() as clients:
        assert [client.get("/offer").json()["call"] for client in clients * 5] == [asked - 1] * 10
        assert shop.supplier.calls["/offer"] == asked
        go.set()
        for client in clients:
            until(lambda client=client: client.get("/offer").json()["call"] >= asked, "the new offer")


@pytest.mark.parametrize("loop", LOOPS)
def test_it_stops_while_a_refresh_is_under_way(loop: str, tmp_path: Path) -> None:
    """The lease is given back, and nobody says a word."""
    with serve(loop, tmp_path / "log") as shop:
        go = refresh(shop)
        assert shop.leases()
        shop.server.stop()
        go.set()
