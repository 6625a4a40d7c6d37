"""Namespaces: caches of different ones share nothing, whatever their keys look like."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from both import FACES
from hypothesis import given
from hypothesis import strategies as st
from redis_server import PATIENT, RedisServer

from tiercache import Cache, LoadFailed, Policy
from tiercache.remote.commands import Names, wire_key

LISTENS = Policy(local_ttl=1e9, beta=0)  # what it knows, it knows until it hears otherwise
HOSTILE = [
    "k", "k:v", "k}:v", "}:v", "}", "{", "{}", "{k}", "k}:l", "k}:f", "k}:s:" + "0" * 32, "}:v\r\nSET x y\r\n", "\n",
    "\r\n", "\0", "a\0b", "a", "a b", "*", "?", "[a]", "\\", '"', "'", "b:k", "b:k}:v", "tc1:{b:k}:v", "}tc1:{b:k",
    "tc1:iv:b", "$3\r\nGET", "*1\r\n$8\r\nFLUSHALL\r\n", "return redis.call('FLUSHALL')", "';redis.call('FLUSHALL')--",
    "\u2028", "é", "e\u0301", "\N{SNOWMAN}" * 50, "\U0001f512", "#" + "0" * 32, "x" * 200, "x" * 201, "x" * 10_000,
    "\x1b[31m", " ",
]  # fmt: skip


def until(done: Callable[[], Any]) -> Any:
    """What `done` gives once it is true; it is asked until then."""
    end = time.monotonic() + 60
    while not (result := done()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)
    return result


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def make_face(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Iterator[Callable[..., Any]]:
    faces = []

    def make(namespace: str, **settings: Any) -> Any:
        faces.append(request.param(make_cache(namespace=namespace, **{**PATIENT, **settings})))
        return faces[-1]

    yield make
    for face in faces:
        face.close()


@pytest.fixture
def pair(make_face: Any, namespace: str) -> tuple[Any, Any]:
    """Caches of two namespaces, one of whose names begins with the other's; both listen."""
    one, other = make_face(namespace, policy=LISTENS), make_face(namespace + "2", policy=LISTENS)
    one.ping()
    other.ping()
    return one, other


names = st.text(st.sampled_from("abAB09_.-"), min_size=1, max_size=8)
keys = st.one_of(st.text(st.sampled_from("ab:{}lvfs#\n\0"), min_size=1), st.text(min_size=1).filter(str.isprintable))


@given(names, keys, names, keys)
def test_no_two_things_have_one_name(one: str, key: str, other: str, other_key: str) -> None:
    """Records, leases, failures and staging places of two namespaces and keys: all names differ if anything does."""

    def all_names(namespace: str, key: str) -> list[str]:
        of, key = Names(namespace), wire_key(key)
        return [of.value(key), of.lease(key), of.failure(key), of.staging(key, bytes(16)), of.invalidations]

    mine, theirs = all_names(one, key), all_names(other, other_key)
    assert len({*mine}) == len({*theirs}) == 5
    if one != other:
        assert not {*mine} & {*theirs}
    elif key != other_key:
        assert {*mine} & {*theirs} == {mine[-1]}


@given(names, keys)
def test_a_name_has_one_hash_tag_that_holds_its_namespace(namespace: str, key: str) -> None:
    """What a cluster hashes is the same for all names of a key, and never empty."""
    of, key = Names(namespace), wire_key(key)
    tags = set()
    for name in (of.value(key), of.lease(key), of.failure(key), of.staging(key, bytes(16))):
        inside = name.partition("{")[2].partition("}")[0]
        assert inside.startswith(namespace + ":")
        tags.add(inside)
    assert len(tags) == 1


def test_hostile_keys_are_keys(pair: Any, client: redis.Redis, namespace: str) -> None:
    """Each has a value of its own in each namespace, by every operation; nothing else in Redis is touched."""
    client.set("witness", "here")
    sizes = []
    for cache in pair:
        values = {key: [cache.namespace, key] for key in HOSTILE}
        cache.set_many(values)
        cache.clear_local()
        assert cache.get_many(HOSTILE) == values
        sizes.append(sum(1 for _ in client.scan_iter(f"tc1:{{{cache.namespace}:*", count=1000)))
    assert sizes == [len(HOSTILE)] * 2
    one, other = pair
    for n, key in enumerate(HOSTILE):
        one.invalidate(key)
        assert one.get(key) is None
        left = len(HOSTILE) - n - 1
        assert len(one.get_many(HOSTILE)) == left, key
    other.clear_local()
    assert len(other.get_many(HOSTILE)) == len(HOSTILE)
    for key in HOSTILE:
        assert one.get_or_load(key, one.loader(lambda: "loaded")) == "loaded"
        assert other.get(key) == [other.namespace, key]
    assert client.get("witness") == b"here"
    for name in client.scan_iter(f"tc1:{{{namespace}*", count=1000):
        assert client.pttl(name) > 0, name
    client.delete("witness")


def test_values_are_not_shared(pair: Any) -> None:
    """Loads of one key: one in each namespace, each its own."""
    for cache in pair:
        assert cache.get("k") is None
        assert cache.get_or_load("k", cache.loader(lambda: cache.namespace)) == cache.namespace  # noqa: B023
    for cache in pair:
        cache.clear_local()
        assert cache.get("k") == cache.namespace
        assert cache.get_many(["k"]) == {"k": cache.namespace}
        assert cache.stats()["commits"] == 1


def test_invalidations_are_not_heard(pair: Any, make_face: Any, namespace: str) -> None:
    """The other's set, invalidate and refresh drop nothing here, in Redis or in the process; one's own are heard."""
    one, other = pair
    one.set("k", 1)
    assert one.get("k") == 1
    other.set("k", 2)
    other.invalidate("k")
    other.invalidate("k", keep_stale=True)
    other.refresh("k", other.loader(lambda: 3))
    sibling = make_face(namespace)
    sibling.set("marker", 1)
    one.get("marker")
    sibling.invalidate("marker")
    until(lambda: one.get("marker") is None)  # all that was published before it was heard before it
    hits = one.stats()["hits_local"]
    assert one.get("k") == 1
    assert one.stats()["hits_local"] == hits + 1
    sibling.invalidate("k")
    until(lambda: one.get("k") is None)


def test_leases_and_loads_are_not_shared(pair: Any) -> None:
    """While one loads, the other loads the same key without a wait; each commits."""
    one, other = pair
    began, go_on = threading.Event(), threading.Event()

    def load() -> str:
        began.set()
        assert go_on.wait(60)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.get_or_load, "k", one.loader(load))
        try:
            assert began.wait(60)
            assert other.get_or_load("k", other.loader(lambda: "quick")) == "quick"
            other.invalidate("k")
            other.set("k", "set")
        finally:
            go_on.set()
        assert slow.result(60) == "slow"
    for cache, value in ((one, "slow"), (other, "set")):
        stats = cache.stats()
        assert (stats["commits"], stats["waits"], stats["busy"], stats["commit_rejected"]) == (1, 0, 0, 0)
        cache.clear_local()
        assert cache.get("k") == value


def test_failures_are_not_shared(pair: Any, make_face: Any, namespace: str) -> None:
    """A load that failed stops its own namespace for its pause, and no other."""
    one, other = pair

    def fails() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        one.get_or_load("k", one.loader(fails), error_backoff=60, error_backoff_max=60)
    assert other.get_or_load("k", other.loader(lambda: "loaded")) == "loaded"
    sibling = make_face(namespace)
    with pytest.raises(LoadFailed, match="down"):
        sibling.get_or_load("k", sibling.loader(lambda: "loaded"))


def test_a_key_that_is_the_name_of_anothers_record_leads_nowhere(pair: Any, client: redis.Redis) -> None:
    """Nor one that is the rest of it."""
    one, other = pair
    other.set("k", "secret")
    place = Names(other.namespace).value("k")
    assert client.exists(place)
    before = client.dump(place)
    for key in (place, f"{other.namespace}:k", f"}}:v{place}", "2:k}:v", "k}:v", f"}}{place[4:]}", place[:-2]):
        assert one.get(key) is None
        one.set(key, "mine")
        one.invalidate(key)
    assert client.dump(place) == before


def test_a_hostile_key_reaches_its_waiters(pair: Any, make_face: Any, namespace: str) -> None:
    """The message that wakes them names it whole."""
    one, sibling = pair[0], make_face(namespace)
    sibling.ping()
    for key in ("}:v\r\nPUBLISH x y\r\n\0", "\U0001f512{b:k}", "x" * 500):
        began = threading.Event()
        waits = sibling.stats()["waits"]

        def load(began: Any = began, waits: int = waits) -> str:
            began.set()
            until(lambda: sibling.stats()["waits"] > waits)
            return "loaded"

        with ThreadPoolExecutor(2) as pool:
            leads = pool.submit(one.get_or_load, key, one.loader(load))
            assert began.wait(60)
            waits_too = pool.submit(sibling.get_or_load, key, sibling.loader(lambda: "loaded twice"))
            assert leads.result(60) == waits_too.result(60) == "loaded"
    assert sibling.stats()["loads"] == sibling.stats()["undecodable"] == 0
