"""`TierCache` in a fleet: what is atomic, loaded once and cleared for every process."""

import threading
from collections.abc import Callable
from typing import Any

import fleet
import pytest
import redis
from apps.serving import until
from redis_server import RedisServer

pytest.importorskip("django", reason="Django is not installed (extra apps)")

from django_processes import adds, asks, counts

from tiercache.contrib.django.backend import GENERATION

Make = Callable[..., Any]


def members(work: Any, server: RedisServer, namespace: str, *args: Any) -> list[fleet.Member]:
    started = [fleet.Member(work, server.url, namespace, *args) for _ in range(3)]
    for member in started:
        assert member.hear() == "ready"
    for member in started:
        member.tell("go")
    return started


def test_of_many_adds_one_is_first(
    redis_server: RedisServer, namespace: str, amount: Callable[[int, int], int], record_property: Any
) -> None:
    """And of many deletes one; whoever is told True was the only one."""
    rounds = amount(100, 2000)
    started = members(adds, redis_server, namespace, rounds)
    for member in started:
        assert member.hear() == "ready"
    for member in started:
        member.tell("go")
    won = [member.hear() for member in started]
    for member in started:
        member.end()
    assert sum(each["add"] for each in won) == rounds
    assert sum(each["delete"] for each in won) == rounds
    record_property("adds_and_deletes_raced", 6 * rounds)


def test_no_increment_is_lost(
    redis_server: RedisServer, namespace: str, make: Make, amount: Callable[[int, int], int], record_property: Any
) -> None:
    """Three processes, each with two threads and an event loop."""
    rounds = amount(50, 1000)
    backend = make()
    backend.set("n", 0)
    started = members(counts, redis_server, namespace, rounds)
    for member in started:
        assert member.hear(120) == "done"
        member.end()
    assert backend.incr("n", 0) == 9 * rounds
    record_property("increments_raced", 9 * rounds)


def test_a_herd_calls_the_default_once(redis_server: RedisServer, namespace: str, client: redis.Redis) -> None:
    """Threads and tasks of three processes get one and the same value, and nobody went around the lease."""
    started = members(asks, redis_server, namespace, 20)
    for member in started:
        found, stats = member.hear()
        member.end()
        assert found == [["the value"]] * 40
        assert not {name: n for name, n in stats.items() if name.startswith("bypass_") and n}
    assert client.getdel(f"calls:{namespace}") == b"1"


def test_clear_is_heard_by_all(cache: Any, make: Make) -> None:
    """Every process loses every value of the namespace, whatever its prefix; another namespace keeps its own."""
    other, prefixed = make(1), make(KEY_PREFIX="p")
    elsewhere = make(OPTIONS={"namespace": "elsewhere"})
    for backend in (cache.backend, prefixed, elsewhere):
        backend.set("k", "old", None)
    assert other.get("k") == "old"
    cache.clear()
    assert cache.get("k") is None
    assert prefixed.get("k") is None
    until(lambda: other.get("k") is None)
    assert other.add("k", "new")
    assert cache.get("k") == "new"
    assert elsewhere.get("k") == "old"


def test_a_load_begun_before_clear_or_delete_stores_nothing(make: Make) -> None:
    """Its own caller gets the value; who comes later loads anew."""
    for fence in ("clear", "delete"):
        backend, other = make(), make(1)
        loading, go = threading.Event(), threading.Event()
        got: list[Any] = []

        def load(loading: threading.Event = loading, go: threading.Event = go) -> str:
            loading.set()
            assert go.wait(60)
            return "old"

        caller = threading.Thread(target=lambda load=load, got=got: got.append(make().get_or_set("k", load)))
        caller.start()
        assert loading.wait(60)
        other.clear() if fence == "clear" else other.delete("k")
        until(lambda backend=backend: backend.get("k") is None)
        go.set()
        caller.join(60)
        assert got == ["old"]
        until(lambda other=other: other.get_or_set("k", lambda: "new") == "new")
        until(lambda backend=backend: backend.get("k") == "new")
        backend.clear()


def test_a_lost_generation_is_replaced_for_all(make: Make, client: redis.Redis, namespace: str) -> None:
    """If Redis evicts it, whoever misses it makes another, and everybody hears: nobody deletes beside the others."""
    first, second = make(), make(1)
    first.set("k", "old")
    assert second.get("k") == "old"
    client.delete(f"tc1:{{{namespace}:{GENERATION}}}:v")
    third = make(2)
    third.set("k", "new")
    until(lambda: first.get("k") == second.get("k") == "new")
    assert first.delete("k")
    until(lambda: second.get("k") is None)
