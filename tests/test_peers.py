"""Where other caches fail, on a real Redis; what other files test is not repeated here."""

import ast
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer
from test_flow import BYPASSES, Gate, in_thread, until

import tiercache
from tiercache import Cache, Policy


def test_a_loader_that_outlives_its_lease_keeps_it(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """The lease is renewed: one load, its value is stored, nobody gets an error."""
    policy = Policy(lease=0.3, max_load=60)
    one, other, gate = make_cache(policy=policy), make_cache(policy=policy), Gate("value")
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: other.get_or_load("k", gate))
    until(lambda: other.stats()["busy"] >= 2)  # it looked again after the first lease's end
    gate.go.set()
    assert (first(), second()) == ("value", "value")
    assert gate.runs == 1
    assert one.stats()["leases_lost"] == one.stats()["commit_rejected"] == 0


def test_an_invalidation_while_loading_is_kept(make_cache: Callable[..., Cache]) -> None:
    """The old value is cached in neither tier of any process."""
    one, other, gate = make_cache(), make_cache(), Gate("old")
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    other.invalidate("k")
    gate.go.set()
    assert first() == "old"
    assert one.get("k") is None
    assert other.get_or_load("k", lambda: "new") == "new"
    assert one.get_or_load("k", lambda: "never") == "new"


def test_waiters_hold_no_connection(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """Fifty waiting threads, in two processes, take no more connections than two callers."""
    one, other, gate = make_cache(), make_cache(), Gate()
    with redis_server.client() as client:
        before = len(client.client_list())
        first = in_thread(lambda: one.get_or_load("k", gate))
        assert gate.running.wait(10)
        calls = [in_thread(lambda: other.get_or_load("k", gate)) for _ in range(50)]
        until(lambda: other.stats()["joins"] == 49 and other.stats()["waits"] == 1)
        assert len(client.client_list()) - before <= 2 * 2 + 1  # an inbox and a link each, and the timer's
    gate.go.set()
    assert {call() for call in [first, *calls]} == {1}


def test_a_waiter_survives_the_loss_of_its_inbox(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """The message was published while nobody listened: the new epoch makes the waiter look again."""
    policy = Policy(lease=60, max_load=60)
    one, other, gate = make_cache(policy=policy), make_cache(policy=policy), Gate()
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    second = in_thread(lambda: other.get_or_load("k", gate))
    until(lambda: other.stats()["waits"] == 1)
    with redis_server.client() as client:
        for each in client.client_list(_type="pubsub"):
            client.client_kill_filter(_id=each["id"])
    gate.go.set()
    assert (first(), second()) == (1, 1)
    assert gate.runs == 1
    assert other.stats()["epochs"] >= 2


def test_an_invalidation_missed_while_deaf_is_noticed(
    make_cache: Callable[..., Cache], redis_server: RedisServer
) -> None:
    """From the loss of the inbox on, nothing in tier 1 is served without asking Redis."""
    reader, writer = make_cache(), make_cache()
    assert reader.get_or_load("k", lambda: "old") == "old"
    deaf, heal = threading.Event(), threading.Event()
    inbox = reader._process.node.inbox
    connect = inbox._connect

    def connect_later() -> Any:
        deaf.set()
        assert heal.wait(20)
        return connect()

    inbox._connect = connect_later
    with redis_server.client() as client:
        for each in client.client_list(_type="pubsub"):
            client.client_kill_filter(_id=each["id"])
    assert deaf.wait(10)
    writer.invalidate("k")
    assert reader.get_or_load("k", lambda: "new") == "new"
    heal.set()
    until(lambda: reader.stats()["epochs"] == 2)
    assert reader.get_or_load("k", lambda: "never") == "new"


def test_a_failing_loader_runs_once_for_all_waiters(make_cache: Callable[..., Cache]) -> None:
    """Fifty waiters in two processes: the loader fails once, and everybody hears it."""
    one, other, gate = make_cache(), make_cache(), Gate(ValueError("down"))
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(10)
    calls = [in_thread(lambda cache=cache: cache.get_or_load("k", gate)) for cache in (one, other) for _ in range(25)]
    until(lambda: other.stats()["waits"] == 1 and one.stats()["joins"] == 25 and other.stats()["joins"] == 24)
    gate.go.set()
    for call in [first, *calls]:
        with pytest.raises(Exception, match="down"):
            call()
    assert gate.runs == 1


def test_a_cold_herd_of_threads_uses_no_bypass(make_cache: Callable[..., Cache]) -> None:
    """Two processes, fifty threads each: one load, every bypass counter 0."""
    caches, gate = [make_cache(), make_cache()], Gate()
    calls = [in_thread(lambda cache=cache: cache.get_or_load("k", gate)) for cache in caches for _ in range(50)]
    until(lambda: sum(cache.stats()["joins"] + cache.stats()["misses"] for cache in caches) == 100)
    gate.go.set()
    assert {call() for call in calls} == {1}
    assert gate.runs == 1
    for cache in caches:
        assert not any(cache.stats()[name] for name in (*BYPASSES, "leases_lost", "undecodable", "unread"))


def test_the_key_is_rendered_once_per_call() -> None:
    """A key= callable is asked once for each call, whether it hits or loads; it may look at more than arguments."""
    cache = Cache()
    rendered: list[int] = []

    @cache.cached(key=lambda item_id: rendered.append(item_id) or f"item:{item_id}")
    def get_item(item_id: int) -> int:
        return item_id

    get_item(42)
    assert rendered == [42]
    get_item(42)
    assert rendered == [42, 42]


def test_nothing_is_pickled() -> None:
    """No module imports pickle, marshal, shelve or dill, but the one that takes signed records alone."""
    for path in Path(tiercache.__file__).parent.rglob("*.py"):
        if path.match("contrib/pickling.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {"pickle", "marshal", "shelve", "dill"} & set(names), path
