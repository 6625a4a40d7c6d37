"""Serves the applications of this folder as a user would, on free ports, and tells what they left behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from redis_server import free_port

HERE = Path(__file__).parent
SOON = 60.0
COMPLAINTS = (
    "Traceback", "never awaited", "is closed", "was destroyed", "never retrieved", "ResourceWarning",
    "Exception ignored", "ERROR", "CRITICAL",
)  # fmt: skip


def until(done: Callable[[], Any], what: str = "it") -> Any:
    """What `done` gives once it is true; it is asked until then."""
    end = time.monotonic() + SOON
    while not (result := done()):
        assert time.monotonic() < end, f"{what} did not come to pass"
        time.sleep(0.01)
    return result


def environment(*folders: Path) -> dict[str, str]:
    """The environment of a process that imports from these folders, and what is installed."""
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Serving:
    """A server program in a process group of its own; a context manager that stops it and reads its log.

    It imports tiercache from where it is installed: nothing here puts this checkout on its path.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        ready: Callable[[str], object],
        *,
        folder: Path = HERE,
        by_keyboard: bool = False,
        **env: str,
    ) -> None:
        self.port = free_port()
        self._command = [part.replace("PORT", str(self.port)) for part in command]
        self._log, self._ready, self._folder, self._by_keyboard = log, ready, folder, by_keyboard
        self._env = {**environment(folder, HERE.parent), "PYTHONUNBUFFERED": "1", **env}
        self.code: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def complaints(self) -> list[str]:
        """What a program says when something was left or went wrong.

        Its listening socket is its own business, and so are the database connections of its threads and pools, which
        live as long as it does: Python 3.13 warns of them.
        """
        own = (f"laddr=('127.0.0.1', {self.port})>", "unclosed database in <sqlite3.", "Enable tracemalloc")
        return [
            line
            for line in self.log.splitlines()
            if any(word in line for word in COMPLAINTS) and not any(word in line for word in own)
        ]

    def __enter__(self) -> "Serving":
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._folder, env=self._env, start_new_session=True,
            )  # fmt: skip
        try:
            until(lambda: self._ready(self.log) or self.process.poll() is not None, "the start")
            assert self.process.poll() is None, self.log
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.stop()
        finally:
            self.kill()

    def stop(self) -> None:
        """End it as an operator would, and wait."""
        if self.process.poll() is None:
            if self._by_keyboard:  # Ctrl-C reaches the whole group
                os.killpg(self.process.pid, signal.SIGINT)
            else:
                self.process.send_signal(signal.SIGTERM)
        self.code = self.process.wait(SOON)

    def kill(self) -> None:
        """End what is left of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def uvicorn(app: str, log: Path, *options: str, workers: int = 2, **settings: Any) -> Serving:
    """Workers of an ASGI application, in Python's development mode."""
    command = ["-X", "dev", "-m", "uvicorn", app, "--port", "PORT", "--workers", str(workers), *options]
    return Serving(command, log, lambda text: text.count("Application startup complete") >= workers, **settings)


def gunicorn(app: str, log: Path, *options: str, workers: int = 2, **settings: Any) -> Serving:
    """Workers of a WSGI application that is imported before they are forked, in Python's development mode."""
    command = ["-X", "dev", "-m", "gunicorn", app, "--preload", "--bind", "127.0.0.1:PORT", "--workers", str(workers)]
    return Serving([*command, *options], log, lambda text: text.count("Booting worker") >= workers, **settings)


def celery(app: str, log: Path, *options: str, **env: str) -> Serving:
    """A Celery worker."""
    command = ["-m", "celery", "-A", app, "worker", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
    return Serving([*command, *options], log, lambda text: " ready." in text, **env)


class Supplier:
    """A slow service of the outside world: counts its calls by path, and answers those it holds when told."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._held: dict[str, threading.Event] = {}
        self._events: list[threading.Event] = []
        supplier = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                supplier._answer(self)

            def log_message(self, *unused: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *unused: object) -> None:
                pass  # a caller that has gone

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.calls[request.path] += 1
        number, held = self.calls[request.path], self._held.pop(request.path, None)
        if held is not None:
            held.wait(SOON)
        body = json.dumps({"path": request.path, "call": number}).encode()
        request.send_response(404 if "404" in request.path else 200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def hold(self, path: str) -> threading.Event:
        """The next call of `path` is answered when the event is set; the ones after it at once."""
        self._held[path] = event = threading.Event()
        self._events.append(event)
        return event

    def close(self) -> None:
        for event in self._events:
            event.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def a_supplier() -> Iterator[Supplier]:
    supplier = Supplier()
    try:
        yield supplier
    finally:
        supplier.close()


# What runs inside a served application's process.


def holding(redis_port: int) -> dict[str, Any]:
    """This process's connections to Redis and the cache's threads."""
    peers = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder's own, or a socket without a peer
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(fd))) as each:
                    peers.append(each.getpeername())
    connections = sum(peer[1:2] == (redis_port,) for peer in peers if isinstance(peer, tuple))
    threads = sorted(each.name for each in threading.enumerate() if each.name.startswith("tiercache-"))
    installed = sys.modules["tiercache"].__file__
    return {"pid": os.getpid(), "connections": connections, "threads": threads, "tiercache": installed}


def watched() -> Any:
    """The FastAPI application; names its process in each answer, and at its end prints what is left there."""
    from fastapi_shop import app

    redis_port = int(os.environ["SHOP_CACHE_URL"].rpartition(":")[2].partition("/")[0])
    before: set[Any] = set()

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                holds = {**holding(redis_port), "tasks": len(asyncio.all_tasks())}
                seen = json.dumps(holds).encode() if scope["path"] == "/health" else b""
                message["headers"] = [*message["headers"], (b"x-pid", b"%d" % os.getpid()), (b"x-holds", seen)]
            elif message["type"] == "lifespan.shutdown.complete":
                tasks = sorted(str(task) for task in asyncio.all_tasks() - before)
                print("LEFT " + json.dumps({**holding(redis_port), "tasks": tasks}), flush=True)
            await send(message)

        if scope["type"] == "lifespan":
            before.update(asyncio.all_tasks())
        await app(scope, receive, told)

    return wrapped
