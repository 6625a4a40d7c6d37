"""A Django application over real HTTP: gunicorn, uvicorn and runserver, and its management commands."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer, free_port

pytest.importorskip("django", reason="Django is not installed (extra apps)")
httpx = pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")

SHOP = Path(__file__).parent / "apps" / "django_shop"
COMPLAINTS = ("Traceback", "Warning", "never awaited", "Exception ignored", "CRITICAL")
HERD = 24


class Shop:
    """The application on a Redis, a database and a folder of its own."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder, self.client = folder / "shop", server.client()
        shutil.copytree(SHOP, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        paths = [str(self.folder), str(SHOP.parents[2]), os.environ.get("PYTHONPATH", "")]
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "SHOP_REDIS": server.url,
            "SHOP_DB": str(folder / "shop.sqlite3"),
        }
        self.manage("migrate", "--run-syncdb", "-v0")
        code = (
            "from shop.models import Item; [Item.objects.create(name=n, price=p) for n, p in (('cup', 5), ('pot', 20))]"
        )
        self.manage("shell", "-v0", "-c", code)
        self.client.flushall()

    def manage(self, *words: str) -> str:
        """What a management command says; it may not warn, and says nothing else."""
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "manage.py", *words],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def loads(self, name: str) -> int:
        return int(self.client.get(f"loads:{name}") or 0)

    @contextlib.contextmanager
    def served(self, *command: str, **env: str) -> Iterator[Any]:
        """An HTTP client of a server that runs; at the end it must leave by itself, without complaints or leases."""
        port, log = free_port(), self.folder / "log"
        words = [word.replace("PORT", str(port)) for word in command]
        with open(log, "w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=self.folder, env={**self.env, **env}, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as web:
                web.log = log
                until(lambda: process.poll() is not None or answers(web))
                assert process.poll() is None, log.read_text()
                yield web
            os.killpg(process.pid, signal.SIGINT if "runserver" in command else signal.SIGTERM)
            process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = log.read_text()
        assert not [line for line in said.splitlines() if any(word in line for word in COMPLAINTS)], said
        assert not [name for name in self.client.keys("tc1:*") if name.endswith(b":l") or self.client.ttl(name) < 0]


def answers(web: Any) -> bool:
    try:
        return bool(web.get("/databases").status_code == 200)
    except httpx.TransportError:
        return False


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def herd(web: Any, path: str) -> list[Any]:
    """Many requests at once, each on a connection of its own."""
    start = threading.Barrier(HERD)

    def ask(_: int) -> Any:
        with httpx.Client(base_url=web.base_url, timeout=60, trust_env=False) as mine:
            start.wait(60)
            return mine.get(path)

    with ThreadPoolExecutor(HERD) as pool:
        return list(pool.map(ask, range(HERD)))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with RedisServer() as server:
        shop = Shop(tmp_path, server)
        yield shop
        shop.client.close()


def gunicorn(shop: Shop, *options: str) -> Any:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed (extra apps)")
    options = options or ("--workers=2", "--threads=16", "--preload")
    return shop.served("gunicorn", "shop.wsgi", "-b127.0.0.1:PORT", *options)


def uvicorn(shop: Shop) -> Any:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra apps)")
    return shop.served("uvicorn", "shop.asgi:application", "--port=PORT", "--workers=2", "--lifespan=off")


def runserver(shop: Shop) -> Any:
    return shop.served("manage", "runserver", "PORT", SHOP_DEBUG="1")


SERVERS = [gunicorn, uvicorn]


@pytest.mark.parametrize("server", SERVERS)
def test_a_herd_of_requests_runs_each_query_once(shop: Shop, server: Any, record_property: Any) -> None:
    """Sync and async views, on a Cache and on Django's own, in two processes."""
    with server(shop) as web:
        for path, name, body in (
            ("/item/1", "item:1", {"id": 1, "name": "cup", "price": 5}),
            ("/aitem/2", "aitem:2", {"id": 2, "name": "pot", "price": 20}),
            ("/prices", "prices", {"cup": 5, "pot": 20}),
            ("/aprices", "aprices", {"cup": 5, "pot": 20}),
        ):
            assert [(each.status_code, each.json()) for each in herd(web, path)] == [(200, body)] * HERD
            assert shop.loads(name) == 1, path
    record_property(f"requests_of_{server.__name__}_herds", 4 * HERD)


@pytest.mark.parametrize("server", SERVERS)
def test_what_does_not_exist_is_asked_for_once(shop: Shop, server: Any) -> None:
    """DoesNotExist and Http404 are answers: cached, and 404 in every process."""
    with server(shop) as web:
        for path, name in (("/item/404", "item:404"), ("/aitem/404", "aitem:404")):
            assert {each.status_code for each in herd(web, path)} == {404}
            assert web.get(path).status_code == 404
            assert shop.loads(name) == 1


def test_a_commit_invalidates_and_a_rollback_does_not(shop: Shop) -> None:
    """Readers have the old row until the commit, then nobody has it; what was rolled back, nobody sees."""
    with gunicorn(shop) as web:
        assert web.get("/item/1").json()["price"] == 5
        assert web.get("/price/1/7").json() == {"inside": 7}
        until(lambda: {each.json()["price"] for each in herd(web, "/item/1")} == {7})
        loads = shop.loads("item:1")
        assert web.get("/price/1/9?refuse").json() == {"inside": 9}
        assert {each.json()["price"] for each in herd(web, "/item/1")} == {7}
        assert shop.loads("item:1") == loads + 1  # the one inside the transaction


def test_sessions_pages_and_fragments(shop: Shop) -> None:
    """They are kept on the backend and shared by the processes; a session that is not saved changes for nobody."""
    with gunicorn(shop) as web:
        for pk in range(1, 6):
            assert web.get(f"/basket/{pk}").json() == {"basket": list(range(1, pk + 1))}
        until(lambda: web.get("/basket/0?forget").json()["basket"] == [1, 2, 3, 4, 5, 0])
        for _ in range(10):
            assert web.get("/basket/0?forget").json() == {"basket": [1, 2, 3, 4, 5, 0]}
        page = web.get("/page")
        assert {each.text for each in herd(web, "/page")} == {page.text}
        assert "max-age=60" in page.headers["cache-control"]
        assert shop.loads("page") == 1
        assert web.get("/fragment").text == "<b>shelf &amp; co</b>!"
        assert {each.text for each in herd(web, "/fragment")} == {"<b>shelf &amp; co</b>!"}
        assert shop.loads("fragment") == 1
        web.get("/clear")
        until(lambda: web.get("/page") and shop.loads("page") > 1)
        assert web.get("/basket/9").json() == {"basket": [9]}


def test_refreshes_behind_their_callers_leave_no_connection(shop: Shop) -> None:
    """The process keeps the connection of its one thread, however many refreshes have run."""
    with gunicorn(shop, "--workers=1") as web:
        web.get("/item/1")
        assert web.get("/databases").json()["open"] == 1
        until(lambda: web.get("/total").json() == {"total": 25} and shop.loads("total") >= 5)
        until(lambda: web.get("/databases").json()["open"] == 1, 4)  # before the idle thread ends, in 5 s


def test_async_views_leave_no_connection(shop: Shop) -> None:
    """Plain defaults of aget_or_set run in threads of ours, which close theirs."""
    with shop.served("uvicorn", "shop.asgi:application", "--port=PORT", "--lifespan=off") as web:
        assert {each.status_code for each in herd(web, "/aprices")} == {200}
        assert shop.loads("aprices") == 1
        assert web.get("/databases").json()["open"] == 0


def test_runserver_reloads(shop: Shop) -> None:
    """A changed file starts a new process, which goes on with what is cached."""
    with runserver(shop) as web:
        before = web.get("/databases").json()["pid"]
        assert {each.status_code for each in herd(web, "/item/1")} == {200}
        assert web.get("/page").text == f"rendered by {before}"
        views = shop.folder / "shop" / "views.py"

        changes = 0

        def ask(path: str) -> Any:
            """The answer, from whichever process is there: a change that was seen twice starts two."""
            found: list[Any] = []

            def asked() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    found.append(web.get(path))
                return bool(found)

            until(asked)
            return found[0]

        def reloaded() -> bool:
            nonlocal changes
            changes += 1
            if changes % 100 == 1:  # again: it may not have watched yet
                views.write_text(views.read_text() + "\n# changed\n")
            return bool(ask("/databases").json()["pid"] != before)

        until(reloaded)
        assert ask("/item/1").json()["price"] == 5
        assert ask("/page").text == f"rendered by {before}"
        assert shop.loads("item:1") == 1


def test_a_management_command(shop: Shop) -> None:
    """It uses both caches, ends at once, and says nothing but what it should; the next one finds what it stored."""
    assert shop.manage("warm") == "cup, pot"
    assert shop.manage("warm") == "cup, pot"
    assert shop.loads("item:1") == shop.loads("item:2") == 1
    assert not [name for name in shop.client.keys("tc1:*") if name.endswith(b":l")]
