"""Programs that end while a load of theirs holds its lease; test_exits.py runs each in an interpreter of its own."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tiercache import Cache, Policy

FOREVER = 300.0  # seconds; nothing waits so long
logging.getLogger("asyncio").setLevel(logging.ERROR)  # its debug mode warns of every delay of a busy machine


def _cache(url: str, namespace: str, lease: float) -> Cache:
    return Cache(url, namespace=namespace, policy=Policy(lease=lease, max_load=2 * FOREVER))


def _loading_on_a_thread(cache: Cache, load: Callable[[], Any], daemon: bool = True) -> None:
    running = threading.Event()

    def loader() -> Any:
        running.set()
        return load()

    threading.Thread(target=lambda: cache.get_or_load("k", loader), daemon=daemon).start()
    assert running.wait(FOREVER)


def _forever() -> None:
    threading.Event().wait(FOREVER)


def main_returns(url: str, namespace: str, lease: float) -> None:
    _loading_on_a_thread(_cache(url, namespace, lease), _forever)


def sys_exit(url: str, namespace: str, lease: float) -> None:
    _loading_on_a_thread(_cache(url, namespace, lease), _forever)
    sys.exit(3)


def unhandled(url: str, namespace: str, lease: float) -> None:
    _loading_on_a_thread(_cache(url, namespace, lease), _forever)
    raise RuntimeError("as meant")


def interrupted(url: str, namespace: str, lease: float) -> None:
    """Ctrl-C in the loader, on the main thread."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    cache = _cache(url, namespace, lease)
    cache.get_or_load("k", lambda: signal.raise_signal(signal.SIGINT))


def handled_sigterm(url: str, namespace: str, lease: float) -> None:
    """As servers do: the signal becomes a SystemExit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _loading_on_a_thread(_cache(url, namespace, lease), _forever)
    signal.raise_signal(signal.SIGTERM)


def default_sigterm(url: str, namespace: str, lease: float) -> None:
    _loading_on_a_thread(_cache(url, namespace, lease), _forever)
    os.kill(os.getpid(), signal.SIGTERM)
    _forever()


def os_exit(url: str, namespace: str, lease: float) -> None:
    _loading_on_a_thread(_cache(url, namespace, lease), _forever)
    os._exit(4)


def thread_goes_on(url: str, namespace: str, lease: float) -> None:
    """A thread that is no daemon loads on when the main thread has ended, and stores its value."""

    def load() -> str:
        threading.main_thread().join()
        return "loaded after the main thread"

    _loading_on_a_thread(_cache(url, namespace, lease), load, daemon=False)


async def _sleep() -> None:
    await asyncio.sleep(FOREVER)


def loop_ends(url: str, namespace: str, lease: float) -> None:
    """asyncio.run returns with a load in flight, and so does the program."""
    asyncio.run(_leaves_a_load(_cache(url, namespace, lease), _sleep))


def loop_ends_with_a_sync_loader(url: str, namespace: str, lease: float) -> None:
    """The same with a loader on a thread of the cache's."""
    asyncio.run(_leaves_a_load(_cache(url, namespace, lease), _forever))


def loop_ends_before_an_awaitable(url: str, namespace: str, lease: float) -> None:
    """The same with a loader that returns something to be awaited when nobody can do so any more."""
    ended, returned = threading.Event(), threading.Event()

    class Said:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *exc: object) -> None:
            returned.set()

    def load() -> Any:
        ended.wait(FOREVER)
        return _sleep()

    cache = Cache(url, namespace=namespace, policy=Policy(lease=lease), around_load=Said)
    asyncio.run(_leaves_a_load(cache, load))
    ended.set()
    returned.wait(FOREVER)


async def _leaves_a_load(cache: Cache, load: Callable[[], Any]) -> None:
    task = asyncio.create_task(cache.aget_or_load("k", load))
    while not cache.stats()["loads"]:
        await asyncio.sleep(0.001)
    assert not task.done()


def loop_raises(url: str, namespace: str, lease: float) -> None:
    """The main coroutine raises while it waits for a load."""

    async def main() -> None:
        await _leaves_a_load(cache, _sleep)
        raise RuntimeError("as meant")

    cache = _cache(url, namespace, lease)
    asyncio.run(main())


def loop_on_a_daemon_thread(url: str, namespace: str, lease: float) -> None:
    """The program ends while a loop on a daemon thread awaits a load."""
    cache, running = _cache(url, namespace, lease), threading.Event()

    async def load() -> None:
        running.set()
        await asyncio.sleep(FOREVER)

    def run() -> None:
        asyncio.run(cache.aget_or_load("k", load))

    threading.Thread(target=run, daemon=True).start()
    assert running.wait(FOREVER)


def refresh_behind(url: str, namespace: str, lease: float) -> None:
    """The program ends while a background refresh runs."""
    cache, running = _cache(url, namespace, lease), threading.Event()

    def load() -> None:
        running.set()
        _forever()

    stale = {"ttl": 0.01, "jitter": 0, "beta": 0, "stale_while_revalidate": FOREVER}
    cache.get_or_load("k", lambda: "old", **stale)
    while not running.wait(0.01):
        assert cache.get_or_load("k", load, **stale) == "old"


def waiting_for_another(url: str, namespace: str, lease: float) -> None:
    """The program ends while a daemon thread waits for another process's load."""
    cache = _cache(url, namespace, lease)
    threading.Thread(target=lambda: cache.get_or_load("k", _forever), daemon=True).start()
    while not cache.stats()["waits"]:
        time.sleep(0.001)
