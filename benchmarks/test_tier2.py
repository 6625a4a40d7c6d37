"""Groups tier2 and miss: a read of Redis and a whole miss beside redis-py's GET with the same decoding."""

from itertools import count
from typing import Any

import msgpack
import pytest
import redis
from redis_server import RedisServer

from tiercache import Cache

VALUE = {"id": 42, "name": "popular item", "price": 9.95, "tags": ["a", "b", "c"]}


@pytest.fixture
def client(redis_server: RedisServer) -> redis.Redis:
    client = redis_server.client()
    client.set("plain", msgpack.packb(VALUE))
    return client


@pytest.mark.benchmark(group="tier2")
def test_yardstick_redis_get_and_unpackb(benchmark: Any, client: redis.Redis) -> None:
    benchmark(lambda: msgpack.unpackb(client.get("plain")))


@pytest.mark.benchmark(group="tier2")
def test_tier2_hit(benchmark: Any, redis_server: RedisServer) -> None:
    with Cache(redis_server.url, namespace="bench") as cache:
        cache.set("key", VALUE, ttl=3600)

        def read() -> Any:
            cache.table.cut("key")
            return cache.get("key")

        assert read() == VALUE
        benchmark(read)


@pytest.mark.benchmark(group="miss")
def test_yardstick_redis_get(benchmark: Any, client: redis.Redis) -> None:
    benchmark(client.get, "absent")


@pytest.mark.benchmark(group="miss")
def test_leader_of_a_miss(benchmark: Any, redis_server: RedisServer) -> None:
    with Cache(redis_server.url, namespace="bench") as cache:
        keys = count()
        benchmark(lambda: cache.get_or_load(f"miss{next(keys)}", int))
