"""What `get_or_set` loads, and where its database connections go."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from tiercache.contrib.pickling import freeze


@contextmanager
def own_connections() -> Iterator[None]:
    """For `around_load`: a load on a thread of ours leaves no database connection open there.

    A load on an event loop has none to close: Django's a-methods open theirs elsewhere.
    """
    try:
        yield
    finally:
        if not _on_loop():
            connections.close_all()


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def loader(default: Any) -> Callable[[], Any]:
    """What loads a default: a value, or a callable that gives one or an awaitable of one."""

    async def awaited(value: Any) -> Any:
        return freeze(await value)

    def load() -> Any:
        value = default() if callable(default) else default
        return awaited(value) if inspect.isawaitable(value) else freeze(value)

    return load


def async_loader(default: Any) -> Callable[[], Any]:
    """What loads a coroutine function, on the event loop."""

    async def load() -> Any:
        return freeze(await default())

    return load
