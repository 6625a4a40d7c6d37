"""The Django application as it is served by gunicorn, uvicorn and runserver, and its management commands."""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from apps import serving
from apps.serving import Serving, until
from redis_server import RedisServer

SHOP = Path(__file__).parent / "django_shop"
HERD = 24


class Shop:
    """The application on a Redis, a database and a folder of its own."""

    def __init__(self, folder: Path, redis: str, client: Any) -> None:
        self.folder, self.log, self.client = folder / "shop", folder / "log", client
        self.database = folder / "shop.sqlite3"
        shutil.copytree(SHOP, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self._servers = {"SHOP_REDIS": redis, "SHOP_DB": str(self.database)}
        self.manage("migrate", "--run-syncdb", "-v0")
        with closing(sqlite3.connect(self.database)) as made, made:
            made.executemany("INSERT INTO shop_item (name, price) VALUES (?, ?)", [("cup", 5), ("pot", 20)])

    def command(self, *words: str) -> "subprocess.Popen[str]":
        """A management command that has begun; to it every warning is an error."""
        return subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "manage.py", *words],
            cwd=self.folder, env={**serving.environment(self.folder), **self._servers},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def manage(self, *words: str) -> str:
        """What a management command says; it complains of nothing."""
        with self.command(*words) as process:
            said, logged = process.communicate(timeout=120)
        with open(self.log, "a") as log:
            log.write(logged)
        assert (process.returncode, re.sub(r"^loading .*\n", "", logged, flags=re.M)) == (0, "")
        return said.strip()

    def loads(self, name: str) -> int:
        """How often a thing was loaded, in all processes, as the application logged it."""
        return self.log.read_text().splitlines().count(f"loading {name}")

    def leases(self, key: str = "") -> list[bytes]:
        return list(self.client.keys(f"tc1:*{key}}}:l"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The database, on which every query waits meanwhile."""
        with closing(sqlite3.connect(self.database, isolation_level=None, timeout=60)) as database:
            database.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                database.execute("COMMIT")

    def herd(self, web: httpx.Client, path: str, key: str) -> list[httpx.Response]:
        """Requests, each on a connection of its own, until those of both processes wait for one query."""

        def ask() -> httpx.Response:
            with httpx.Client(base_url=web.base_url, timeout=60, trust_env=False) as mine:
                return mine.get(path)

        with ThreadPoolExecutor(200) as pool:
            with self.locked():
                requests = [pool.submit(ask) for _ in range(HERD)]

                def both_wait() -> bool:
                    requests.append(pool.submit(ask))
                    return any(self.client.hlen(lease) == 3 for lease in self.leases(key))

                until(both_wait, "the other process")
            return [each.result(60) for each in requests]

    def connections(self, pid: int) -> int:
        """How many connections to the database a process has."""
        found = 0
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(link) == str(self.database)
        return found

    def gunicorn(self, workers: int = 2) -> AbstractContextManager[httpx.Client]:
        return self._served(partial(serving.gunicorn, "shop.wsgi", self.log, "--threads=16", workers=workers))

    def uvicorn(self, workers: int = 2) -> AbstractContextManager[httpx.Client]:
        return self._served(partial(serving.uvicorn, "shop.asgi:application", self.log, workers=workers))

    def runserver(self) -> AbstractContextManager[httpx.Client]:
        command = ["manage.py", "runserver", "PORT"]  # not -X dev: at Ctrl-C the reloader warns of its own child
        ready = re.compile("Quit the server").search
        return self._served(partial(Serving, command, self.log, ready, by_keyboard=True, SHOP_DEBUG="1"))

    @contextlib.contextmanager
    def _served(self, server: Callable[..., Serving]) -> Iterator[httpx.Client]:
        """A client of a server that runs; it must leave by itself, without complaints, leases or endless keys."""
        with (
            server(folder=self.folder, **self._servers) as run,
            httpx.Client(base_url=run.url, timeout=60, trust_env=False) as web,
        ):
            yield web
        assert run.complaints == []
        assert self.leases() == []
        assert [name for name in self.client.keys("tc1:*") if self.client.ttl(name) < 0] == []


@contextlib.contextmanager
def a_shop(folder: Path) -> Iterator[Shop]:
    """A shop that sells a cup and a pot."""
    with RedisServer() as redis, redis.client() as client:
        yield Shop(folder, redis.tcp_url, client)
