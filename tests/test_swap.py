"""Writes and invalidations on a condition: the scripts on real servers and in memory, and swap on top of them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis_server import RedisServer
from tier2 import Ear, Io, Tier2, a_lease, a_record, servers

from tiercache import Cache, RemoteUnavailable
from tiercache.blocking import run
from tiercache.contrib.swap import ABSENT, KEEP, Step, swap
from tiercache.port import Granted, RemoteRefused
from tiercache.remote.commands import INLINE, Names
from tiercache.testing import MemoryRedis
from tiercache.testing.redis import MemoryLinks

A, B = b"record a", b"record b"
LARGE = b"x" * (INLINE + 1)


class MemoryTier2(Tier2):
    """`Tier2` without a server."""

    def __init__(self, memory: MemoryRedis, namespace: str) -> None:
        self.counts = Counter()
        self.links = MemoryLinks(memory)
        self.names = Names(namespace)
        self.remote = self.made()
        self.io = Io(self.links.exchange)


Execute = Callable[..., Any]


@pytest.fixture(params=[*servers(), pytest.param(None, id="memory")])
def side(request: pytest.FixtureRequest, namespace: str) -> Iterator[tuple[Tier2, Execute]]:
    """A process's tier 2, and any command to its server."""
    if request.param is None:
        memory = MemoryRedis()
        tier: Tier2 = MemoryTier2(memory, namespace)
        yield (
            tier,
            lambda *words: memory.execute(*(str(word).encode() if type(word) is not bytes else word for word in words)),
        )
        return
    with RedisServer(executable=request.param) as server, server.client() as client:
        tier = Tier2(server.url, namespace)
        yield tier, client.execute_command
        tier.close()


@pytest.mark.parametrize("payload", [b"x", LARGE], ids=["small", "large"])
def test_a_write_on_a_condition(side: tuple[Tier2, Execute], payload: bytes) -> None:
    """It happens where the known record, or none, stands there; else nothing changes and nothing is left staged."""
    tier, execute = side
    v = tier.names.value("k")
    first, second = a_record(A, payload), a_record(B, payload)
    assert not tier.replace("k", first, B)
    assert execute("GET", v) is None
    assert tier.replace("k", first, b"")
    assert execute("GET", v) == first.pack()
    assert 30_000 < execute("PTTL", v) <= 40_000
    assert not tier.replace("k", second, b"")
    assert not tier.replace("k", second, B)
    assert execute("GET", v) == first.pack()
    assert execute("GET", tier.names.staging("k", B)) is None
    assert tier.replace("k", second, A)
    assert execute("GET", v) == second.pack()


def test_an_invalidation_on_a_condition(side: tuple[Tier2, Execute]) -> None:
    """The known record goes; another one stays."""
    tier, execute = side
    v = tier.names.value("k")
    tier.write_many([("k", a_record(A))])
    assert not tier.replace("k", None, B)
    assert not tier.replace("k", None, b"")
    assert execute("GET", v) == a_record(A).pack()
    assert tier.replace("k", None, A)
    assert execute("GET", v) is None
    assert tier.replace("k", None, b"")


@pytest.mark.parametrize("record", [a_record(B), None], ids=["write", "invalidate"])
def test_a_running_load_is_fenced(side: tuple[Tier2, Execute], record: Any) -> None:
    """It can't commit after a condition that held; after one that did not, it can."""
    tier, _ = side
    lease = a_lease()
    assert tier.acquire(lease) == Granted(1)
    assert not tier.replace("k", record, A)
    assert tier.commit(lease, a_record(lease.id))
    again = a_lease()
    assert tier.acquire(again, lease.id) == Granted(1)
    assert tier.replace("k", record, lease.id)
    assert not tier.commit(again, a_record(again.id))


@pytest.mark.parametrize(
    "planted",
    [b"something else", a_record(A).pack() + b"y", a_record(A).pack()[:-1], b"tc\2" + a_record(A).pack()[3:]],
    ids=["foreign", "too long", "too short", "another format"],
)
def test_what_is_no_record_is_absent(side: tuple[Tier2, Execute], planted: bytes) -> None:
    """As it is for a read, so that a caller who saw nothing is not refused for ever."""
    tier, execute = side
    execute("SET", tier.names.value("k"), planted, "PX", 60_000)
    assert tier.read("k").record is None
    assert not tier.replace("k", a_record(B), A)
    assert tier.replace("k", a_record(B), b"")


def test_a_record_that_never_ends_is_absent(redis_server: RedisServer, namespace: str) -> None:
    """It is none of ours."""
    tier = Tier2(redis_server.url, namespace)
    with redis_server.client() as client:
        client.set(tier.names.value("k"), a_record(A).pack())
        assert not tier.replace("k", a_record(B), A)
        assert tier.replace("k", a_record(B), b"")
        assert client.pttl(tier.names.value("k")) > 30_000
    tier.close()


def test_a_foreign_type_is_refused(redis_server: RedisServer, namespace: str) -> None:
    """And stays."""
    tier = Tier2(redis_server.url, namespace)
    with redis_server.client() as client:
        client.hset(tier.names.value("k"), "a", "b")
        with pytest.raises(RemoteRefused, match="WRONGTYPE"):
            tier.replace("k", a_record(A), b"")
        assert client.hgetall(tier.names.value("k")) == {b"a": b"b"}
        client.delete(tier.names.value("k"))
    tier.close()


def test_everybody_is_told(redis_server: RedisServer, namespace: str) -> None:
    """Of a change as by write and invalidate, of none by nothing."""
    tier = Tier2(redis_server.url, namespace)
    with redis_server.client() as client:
        ear = Ear(client, tier.names.invalidations)
        tier.replace("k", a_record(B), A)
        tier.replace("k", a_record(A), b"")
        tier.replace("k", None, B)
        tier.replace("k", None, A)
        told = [words for _, words in ear.heard()]
        ear.close()
    tier.close()
    assert told == [[b"k", A], [b"k", b""]]


def test_swap_tries_again_when_another_was_faster(make_cache: Callable[..., Cache]) -> None:
    """What it decides from is what stands there when it writes."""
    cache, other = make_cache(), make_cache()
    seen: list[Any] = []

    def decide(value: Any, left: float) -> Step:
        seen.append(value)
        if len(seen) == 1:
            other.set("k", "by the other", ttl=60)
        return Step("done", f"{value} and this", 30.0)

    cache.set("k", "old", ttl=60)
    assert run(swap(cache._blocking(), "k", decide)) == "done"
    assert seen == ["old", "by the other"]
    assert cache.get("k") == "by the other and this"
    _until(lambda: other.get("k") == "by the other and this")


def test_its_own_process_sees_a_swap_at_once(make_cache: Callable[..., Cache]) -> None:
    """Not only when the message has come back."""
    cache = make_cache()
    for n in range(500):
        cache.set("k", n, ttl=60)
        run(swap(cache._blocking(), "k", lambda value, left: Step(None, value + 1000, 60.0)))
        assert cache.get("k") == n + 1000


def test_swap_keeps_what_the_answer_says(make_cache: Callable[..., Cache]) -> None:
    """KEEP writes nothing, ABSENT removes, an exception changes nothing."""
    cache = make_cache()

    def failing(value: Any, left: float) -> Step:
        raise LookupError(value)

    cache.set("k", "old", ttl=60)
    assert run(swap(cache._blocking(), "k", lambda value, left: Step((value, 50 < left <= 60), KEEP))) == ("old", True)
    with pytest.raises(LookupError, match="old"):
        run(swap(cache._blocking(), "k", failing))
    assert cache.get("k") == "old"
    assert run(swap(cache._blocking(), "k", lambda value, left: Step(value, ABSENT))) == "old"
    assert cache.get("k") is None
    assert run(swap(cache._blocking(), "k", lambda value, left: Step((value is ABSENT, left)))) == (True, 0.0)


def test_a_stale_value_is_absent(make_cache: Callable[..., Cache]) -> None:
    """Past its freshness, or softly invalid, it is kept for stale-if-error alone."""
    cache = make_cache()
    cache.set("k", "old", ttl=60, stale_if_error=60)
    cache.invalidate("k", keep_stale=True)
    assert run(swap(cache._blocking(), "k", lambda value, left: Step(value is ABSENT, "new", 60.0)))
    assert cache.get("k") == "new"


def test_what_swap_can_not_read_is_absent_and_told(
    make_cache: Callable[..., Cache], redis_server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted each time and logged once, as by a read; the swap replaces it."""
    cache, answers = make_cache(), []
    with redis_server.client() as client:
        for _ in range(2):
            client.set(Names(namespace).value("k"), a_record(A, b"\xc1").pack(), px=60_000)
            answers.append(run(swap(cache._blocking(), "k", lambda value, left: Step(value is ABSENT, "new", 60.0))))
    assert answers == [True, True]
    assert cache.get("k") == "new"
    assert cache.stats()["undecodable"] == 2
    [told] = [record.getMessage() for record in caplog.records if "can't be read" in record.getMessage()]
    assert "'k'" in told


def test_swap_without_redis(make_cache: Callable[..., Cache]) -> None:
    """It says so, and names the key."""
    with RedisServer() as server:
        cache = make_cache(server.url)
        cache.set("k", "old", ttl=60)
    with pytest.raises(RemoteUnavailable, match="'k'"):
        run(swap(cache._blocking(), "k", lambda value, left: Step(True, "new", 60.0)))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)
