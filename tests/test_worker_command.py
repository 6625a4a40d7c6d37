"""`tiercache worker` as a program: readiness, log, signals, exit codes, and what is wrong with its arguments."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis_server import RedisServer, free_port
from test_flow import until

from tiercache import Cache, Policy
from tiercache.remote.jobs import RIGHTS

HERE = Path(__file__).parent
POLICY = Policy(ttl=60, beta=1e9, lease=0.5, refresh="worker")
SHOP = """
from tiercache import Cache, Policy
cache = Cache({url!r}, namespace="shop", policy=Policy(ttl=60, beta=1e9, lease=0.5, refresh="worker"))
alone = Cache()
class shelf:
    caches = [cache]
    cache = cache

@cache.cached("item:{{item}}")
def get_item(item):
    import os
    return os.getpid()
"""


class Command:
    """A `tiercache worker` in a folder of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.ready, self._log = folder / "ready", folder / "log"
        command = [sys.executable, "-m", "tiercache.cli", "worker", *args]
        with self._log.open("w") as log:
            environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def until_ready(self) -> None:
        until(lambda: self.ready.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self._log.read_text()

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, str]:
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(60), self.said()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started = []

    def start(url: str, *args: str) -> Command:
        (tmp_path / "shop.py").write_text(SHOP.format(url=url))
        (tmp_path / "broken.py").write_text("\n1 / 0\n")
        (tmp_path / "more.py").write_text("import shop\n@shop.cache.cached\ndef more(): return 1\nprint('more')")
        started.append(Command(tmp_path, *args))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_refreshes_and_ends_by_a_signal(
    command: Callable[..., Command], redis_server: RedisServer, client: redis.Redis, number: int, tmp_path: Path
) -> None:
    """A line when it is ready, one for each refresh, one at the end; the file is there meanwhile; exit code 0."""
    worker = command(redis_server.url, "shop:cache", "--ready-file", str(tmp_path / "ready"), "--import", "more")
    worker.until_ready()
    asks = "import shop, os, time\nassert shop.get_item(1) == os.getpid()\nshop.get_item(1)\n"
    asks += "while shop.get_item(1) == os.getpid(): time.sleep(0.01)\nprint(shop.get_item(1))\n"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", asks],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert int(done.stdout) == worker.process.pid
    code, said = worker.end(number)
    assert code == 0
    assert not worker.ready.exists()
    more, ready, *refreshed, stopped = said.splitlines()
    assert more == "more"
    assert ready.endswith("INFO ready: refreshes for namespace shop, 8 at once")
    for line in refreshed:
        assert re.search(r"INFO shop\.get_item as item:\{item\} 'item:1': stored in \d+\.\d+ s$", line), said
    assert stopped.endswith(f"INFO stopped: {len(refreshed)} done, 0 failed, 0 dropped, 0 refused")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["shop"], "'shop' must be MODULE:CACHE"),
        ([":cache"], "':cache' must be MODULE:CACHE"),
        (["nosuch:cache"], "can't import 'nosuch': ModuleNotFoundError: No module named 'nosuch'"),
        (["broken:cache"], r"can't import 'broken': ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        (["shop:nosuch"], "'shop:nosuch': shop has no 'nosuch'"),
        (["shop:get_item"], "'shop:get_item' is a CachedFunction, not a tiercache.Cache"),
        (["shop:alone"], "'shop:alone' is a cache without Redis"),
        (["shop:cache", "--import", "broken"], "can't import 'broken'"),
        (["shop:cache", "--concurrency", "0"], "must be at least 1"),
        (["shop:shelf.cache", "--ready-file", "nosuch/ready"], "--ready-file: .*No such file"),
        (["shop:cache", "--grace", "x"], "invalid float value"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(
    command: Callable[..., Command], redis_server: RedisServer, args: list[str], text: str
) -> None:
    """Exit code 2, for supervisors not to try again."""
    code, said = command(redis_server.url, *args).end(None)
    line = said.strip().splitlines()[-1]
    assert code == 2
    assert line.startswith("tiercache worker: ")
    assert re.search(text, line), line
    assert "Traceback" not in said


@pytest.mark.parametrize("missing", [word.replace("+", "-").partition("|")[0] for word in RIGHTS.split()])
def test_a_missing_right_is_named(
    command: Callable[..., Command], redis_server: RedisServer, client: redis.Redis, missing: str
) -> None:
    """Exit code 2, with what the user needs; the password is not shown."""
    client.execute_command(
        "ACL", "SETUSER", "worker", "reset", "on", ">s3cret", "~tc1:*", "allchannels", "+@all", missing
    )
    url = redis_server.url.replace("://", "://worker:s3cret@")
    code, said = command(url, "shop:cache").end(None)
    line = said.strip().splitlines()[-1]
    assert code == 2
    assert "NOPERM" in line
    assert RIGHTS in line
    assert "s3cret" not in said


def test_the_documented_rights_are_enough(
    command: Callable[..., Command], redis_server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    """Those of the cache and, for who sends, one more; for workers, those that the page lists."""
    page = (HERE.parent / "docs" / "security.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^ACL SETUSER shop .*$", page, re.M)
    assert f"`{RIGHTS}`" in page
    assert "`+xadd`" in page
    words = line.replace("PASSWORD", "s3cret").split()
    client.execute_command(*words, "+xadd")
    client.execute_command("ACL", "SETUSER", "worker", *words[3:], *RIGHTS.split())
    worker = command(redis_server.url.replace("://", "://worker:s3cret@"), "shop:cache", "--ready-file", "ready")
    worker.until_ready()
    with Cache(redis_server.url.replace("://", "://shop:s3cret@"), namespace="shop", policy=POLICY) as cache:

        def get_item(item: int) -> int:
            return os.getpid()

        get_item.__module__, get_item.__qualname__ = "shop", "get_item"
        cached = cache.cached("item:{item}")(get_item)
        assert cached(1) == os.getpid()
        until(lambda: cached(1) == worker.process.pid)
        stats = cache.stats()
    assert (stats["jobs_unsent"], stats["bypass_refused"]) == (0, 0)
    assert "NOPERM" not in worker.end()[1]


def test_a_wrong_password_is_said(command: Callable[..., Command], redis_server: RedisServer) -> None:
    """Exit code 2: it would not be right the next time."""
    code, said = command(redis_server.url.replace("://", "://worker:wr0ng@"), "shop:cache").end(None)
    assert code == 2
    assert "AuthenticationError" in said.splitlines()[-1]
    assert "wr0ng" not in said


def test_redis_is_waited_for_when_it_is_not_there_yet_and_when_it_goes_away(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    """Not ready meanwhile, a line for each change, and no end."""
    port = free_port()
    worker = command(f"redis://localhost:{port}/0", "shop:cache", "--ready-file", str(tmp_path / "ready"))
    until(lambda: "not ready" in worker.said())
    for _ in range(2):
        with RedisServer(port=port):
            worker.until_ready()
        until(lambda: not worker.ready.exists())
    code, said = worker.end()
    assert code == 0
    assert said.count("ready: refreshes") == 2
    assert said.count("not ready, Redis can't be used") == 3


def test_the_help_has_examples() -> None:
    """And the exit codes."""
    done: Any = subprocess.run(
        [sys.executable, "-m", "tiercache.cli", "worker", "--help"],
        cwd=HERE.parent, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "tiercache worker shop.cache:cache" in done.stdout
    assert "Exit code 0" in done.stdout
