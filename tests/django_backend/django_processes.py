"""Backends in both colours for the tests of this folder, and what the processes of its fleets do."""

import asyncio
import threading
import time
from typing import Any

import django
import redis
from django.conf import settings
from django.core.signals import setting_changed

SECRET = "of these tests alone"
if not settings.configured:
    settings.configure(SECRET_KEY=SECRET, USE_TZ=True)
    django.setup()

from tiercache.contrib.django import TierCache  # noqa: E402  # the settings come first

PATIENT = {"call_timeout": 5, "call_budget": 20, "connect_timeout": 5}  # the machine may be busy


class Sync:
    """The methods as they are."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def end(self) -> None:
        pass


class Async(Sync):
    """The a-methods, each run to its end on one event loop."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.backend, "a" + name)

        def call(*args: Any, **kwargs: Any) -> Any:
            async def main() -> Any:
                return await method(*args, **kwargs)

            return self.runner.run(main())

        return call

    def end(self) -> None:
        self.runner.close()


def forget() -> None:
    """Close every cache of ours, as Django's own tests do when CACHES changes."""
    setting_changed.send(sender=None, setting="CACHES", value=None, enter=False)


def _backend(url: str, namespace: str) -> TierCache:
    return TierCache(url, {"OPTIONS": {**PATIENT, "namespace": namespace}})


def adds(url: str, namespace: str, pipe: Any, rounds: int) -> None:
    """Add keys, then delete them, all at once with others; send how often it was us."""
    backend = _backend(url, namespace)
    won = {"add": 0, "delete": 0}
    for method in won:
        pipe.send("ready")
        pipe.recv()
        for each in range(rounds):
            won[method] += getattr(backend, method)(str(each), *([1] if method == "add" else []))
    pipe.send(won)
    forget()


def counts(url: str, namespace: str, pipe: Any, rounds: int) -> None:
    """Count up, from two threads and an event loop."""
    backend = _backend(url, namespace)

    def up() -> None:
        for _ in range(rounds):
            backend.incr("n")

    async def aup() -> None:
        for _ in range(rounds):
            await backend.aincr("n")

    pipe.send("ready")
    pipe.recv()
    threads = [threading.Thread(target=work) for work in (up, up, lambda: asyncio.run(aup()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send("done")
    forget()


def asks(url: str, namespace: str, pipe: Any, callers: int) -> None:
    """Many callers, half of them tasks, ask for one key; send what they got and the counters."""
    backend = _backend(url, namespace)
    counter = redis.Redis.from_url(url)

    def default() -> list[str]:
        counter.incr(f"calls:{namespace}")
        time.sleep(0.3)  # the time of a query: long enough for everybody to come
        return ["the value"]

    found: list[Any] = []

    def ask() -> None:
        found.append(backend.get_or_set("popular", default))

    async def aask() -> None:
        found.extend(await asyncio.gather(*[backend.aget_or_set("popular", default) for _ in range(callers)]))

    pipe.send("ready")
    pipe.recv()
    threads = [threading.Thread(target=ask) for _ in range(callers)]
    threads.append(threading.Thread(target=lambda: asyncio.run(aask())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counter.close()
    pipe.send((found, backend._cache.stats()))
    forget()
