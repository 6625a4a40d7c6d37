"""Backends of `tiercache.contrib.django.TierCache`, each test with a namespace of its own."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis_server import RedisServer

# Where Django is missing the tests are skipped: nothing here imports it before a test needs it.


@pytest.fixture
def make(redis_server: RedisServer, namespace: str) -> Iterator[Callable[..., Any]]:
    """Makes backends of one namespace; `process` tells those apart that stand for different processes."""
    from django_processes import PATIENT, forget

    from tiercache.contrib.django import TierCache

    before = set(threading.enumerate())

    def made(process: int = 0, location: Any = redis_server.url, **params: Any) -> TierCache:
        options = {**PATIENT, "namespace": namespace, "MAX_ENTRIES": 1000 + process, **params.pop("OPTIONS", {})}
        return TierCache(location, {**params, "OPTIONS": options})

    yield made
    forget()
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("tiercache-")]
    for thread in left:
        thread.join(30)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture(params=["Sync", "Async"])
def cache(request: pytest.FixtureRequest, make: Callable[..., Any]) -> Iterator[Any]:
    import django_processes

    face = getattr(django_processes, request.param)(make())
    yield face
    face.end()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client
