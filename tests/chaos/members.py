"""Processes of a fleet for the chaos tests: each is forked from a small server, which takes some 10 ms."""

import faulthandler
import gc
import logging
import multiprocessing
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tiercache import Cache, Policy

HERE = Path(__file__).parent
PATH = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
SOON = 60.0
PATIENT: dict[str, Any] = {"connect_timeout": 10, "call_timeout": 10, "call_budget": 20}

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["members", "asyncio", "msgpack"])


class Member:
    """A process that runs `work(pipe, url, namespace, *args)`; `said` is what it wrote to stderr, once it ended."""

    def __init__(self, work: Callable[..., object], *args: Any) -> None:
        self.pipe, theirs = server.Pipe()
        self._stderr = tempfile.NamedTemporaryFile("r")  # noqa: SIM115  # read when the process has ended
        self.process = server.Process(target=_begin, args=(work, self._stderr.name, theirs, *args))
        self.process.start()
        theirs.close()
        self.said = ""

    def hear(self) -> Any:
        try:
            if not self.pipe.poll(SOON):
                self.signal(signal.SIGUSR1)
                self.process.join(1)
                raise AssertionError(f"nothing was heard in time: {self._stderr.read()}")
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise AssertionError(f"it ended instead of answering: {self._stderr.read()}") from None

    def tell(self, message: Any = None) -> None:
        self.pipe.send(message)

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> int | None:
        """Wait until it has ended: its exit code, minus the signal's number if one killed it."""
        self.process.join(SOON)
        return self.process.exitcode

    def kill(self) -> None:
        """End it if it has not ended."""
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.said = self._stderr.read()
        self._stderr.close()
        self.pipe.close()
        self.process.close()


def _begin(work: Callable[..., object], stderr: str, pipe: Any, *args: Any) -> None:
    written = os.open(stderr, os.O_WRONLY | os.O_APPEND)
    os.dup2(written, 2)
    os.close(written)
    faulthandler.register(signal.SIGUSR1)  # what it was doing when it was not heard
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    work(pipe, *args)
    gc.collect()


def made(url: str, namespace: str, policy: dict[str, Any], **settings: Any) -> Cache:
    """A cache that gives up on Redis late, so that a slow machine is no excuse for a load."""
    return Cache(url, namespace=namespace, policy=Policy(**policy), **{**PATIENT, **settings})


class Marks:
    """What happened, in Redis, outside the cache: lists of (word, monotonic time) that outlive their writers."""

    def __init__(self, url: str, namespace: str) -> None:
        # One connection, whatever threads use it: some tests count sockets.
        self._pool = redis.BlockingConnectionPool.from_url(url, max_connections=1, timeout=SOON)
        self._client = redis.Redis(connection_pool=self._pool)
        self._namespace = namespace

    def add(self, key: str, word: str) -> None:
        self._client.rpush(self._name(key), f"{word} {time.monotonic()}")

    def all(self, key: str) -> list[tuple[str, float]]:
        lines = [line.decode().rsplit(" ", 1) for line in self._client.lrange(self._name(key), 0, -1)]
        return [(word, float(at)) for word, at in lines]

    def count(self, key: str, word: str) -> int:
        return sum(each == word for each, _ in self.all(key))

    def until(self, key: str, *words: str) -> None:
        """Wait until one of the words stands there."""
        self._until(lambda: any(word in words for word, _ in self.all(key)))

    def until_counted(self, key: str, word: str, times: int) -> None:
        """Wait until a word stands there so often."""
        self._until(lambda: self.count(key, word) >= times)

    def until_waited_for(self, key: str, processes: int) -> None:
        """Wait until so many processes have registered at the lease of a key."""
        self._until(lambda: self._client.hlen(f"tc1:{{{self._namespace}:{key}}}:l") >= 2 + processes)

    def _until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SOON
        while not done():
            assert time.monotonic() < deadline, "it did not come to pass"
            time.sleep(0.002)

    def _name(self, key: str) -> str:
        return f"marks:{self._namespace}:{key}"

    def close(self) -> None:
        self._client.close()
        self._pool.disconnect()
