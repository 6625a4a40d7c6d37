"""A Redis that is absent, goes, hangs, or refuses: callers get their values, and are told what is wrong."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from both import FACES
from redis_server import PATIENT, RedisServer, free_port

from tiercache import Cache, Policy, RemoteUnavailable

SECRET = "hunter2-s3cret"
SOON = 30.0


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def make_face(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Iterator[Callable[..., Any]]:
    faces = []

    def make(url: str, **settings: Any) -> Any:
        faces.append(request.param(make_cache(url, **settings)))
        return faces[-1]

    yield make
    for face in faces:
        face.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of this test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The messages of logger `tiercache`, all of which are warnings."""
    with caplog.at_level(logging.DEBUG, "tiercache"):
        yield lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert all(record.levelno <= logging.WARNING for record in caplog.records)
    assert SECRET not in caplog.text


class Loader:
    def __init__(self, value: Any = "loaded") -> None:
        self.value, self.runs = value, 0

    def __call__(self) -> Any:
        self.runs += 1
        return self.value


def until(done: Callable[[], Any]) -> Any:
    """What `done` gives once it is true; it is asked until then."""
    end = time.monotonic() + SOON
    while not (result := done()):
        assert time.monotonic() < end, "it did not come to pass"
    return result


def writes_are_unavailable(cache: Any, match: str) -> None:
    """`set` and `invalidate` act here and say that they did no more; the errors name the key and no secret."""
    calls: list[Callable[[], Any]] = [
        lambda: cache.set("w", 1),
        lambda: cache.set_many({"w": 1, "w2": 2}),
        lambda: cache.invalidate("w", "w2"),
        lambda: cache.invalidate("w", keep_stale=True),
    ]
    for call in calls:
        with pytest.raises(RemoteUnavailable, match=match) as error:
            call()
        assert "'w'" in str(error.value)
        assert SECRET not in str(error.value)
        assert error.value.__suppress_context__


def ping_says(cache: Any, match: str) -> None:
    with pytest.raises(RemoteUnavailable, match=match) as error:
        cache.ping()
    assert SECRET not in str(error.value)


# Absent, gone, hanging.


def test_an_absent_redis_costs_no_value(make_face: Any, warnings: Any) -> None:
    """Loads go on and are kept here; everything is counted, and said in one warning each."""
    cache, loader = make_face(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"), Loader()
    assert cache.get("k", "default") == "default"
    assert cache.get_many(["k"]) == {}
    for _ in range(3):
        assert cache.get_or_load("k", cache.loader(loader)) == "loaded"
    assert loader.runs == 1
    for n in range(5):
        assert cache.get_or_load(f"k{n}", cache.loader(loader)) == "loaded"
    ping_says(cache, "(?i)connect")
    writes_are_unavailable(cache, "(?i)connect")
    stats = cache.stats()
    assert stats["bypass_unanswered"] + stats["bypass_breaker"] == loader.runs == stats["loads"] == 6
    assert stats["bypass_breaker"] >= 4
    assert stats["breaker_opened"] == 1
    assert stats["unread"] >= 2
    assert stats["grants"] == stats["commits"] == stats["bypass_refused"] == 0
    kinds = sorted("inbox" in text for text in warnings())
    assert kinds == [False, True]


def test_a_value_that_was_set_is_gone_here_if_redis_did_not_hear_it(make_face: Any, server: RedisServer) -> None:
    """The old value is no longer served by the process that tried to replace it."""
    cache = make_face(server.tcp_url)
    cache.set("k", "old")
    server.halt()
    with pytest.raises(RemoteUnavailable):
        cache.set("k", "new")
    assert cache.get("k") is None
    assert cache.get_or_load("k", cache.loader(Loader())) == "loaded"
    with pytest.raises(RemoteUnavailable):
        cache.invalidate("k")
    assert cache.get("k") is None


def test_without_redis_a_herd_of_threads_loads_once(make_cache: Callable[..., Cache]) -> None:
    """One load per process and key, however many ask."""
    cache, runs = make_cache(f"redis://127.0.0.1:{free_port()}/0"), []

    def load() -> str:
        runs.append(1)
        until(lambda: cache.stats()["joins"] >= 49)
        return "loaded"

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda _: cache.get_or_load("k", load), range(50))) == ["loaded"] * 50
    assert len(runs) == 1


def test_calls_end_within_the_budget_when_redis_hangs(make_face: Any, server: RedisServer, warnings: Any) -> None:
    """A stopped server, which still accepts: each call takes its budget at most, and hardly that once it is known."""
    cache, loader = make_face(server.tcp_url, connect_timeout=0.25, call_timeout=0.1, call_budget=0.5), Loader()
    assert until(lambda: answers(cache))
    server.process.send_signal(signal.SIGSTOP)
    try:
        spent = []
        for n in range(6):
            began = time.monotonic()
            assert cache.get_or_load(f"k{n}", cache.loader(loader)) == "loaded"
            spent.append(time.monotonic() - began)
        assert max(spent) < 0.5 + 1.5  # the budget, and patience with a busy machine
        assert min(spent) < 0.1
        writes_are_unavailable(cache, "w")
        assert cache.stats()["breaker_opened"] >= 1
    finally:
        server.process.send_signal(signal.SIGCONT)
    until(lambda: not cache._process.node.remote.remaining() or answers(cache))
    cache.set("k", "set")
    assert cache.get("k") == "set"
    assert any("is open" in text for text in warnings())
    assert any("is closed" in text for text in warnings())


def answers(cache: Any) -> bool:
    try:
        cache.ping()
    except RemoteUnavailable:
        return False
    return True


def test_values_flow_again_after_a_restart(make_face: Any, server: RedisServer, warnings: Any) -> None:
    """Known values are served while it is away; then sets, invalidations and loads are the fleet's again."""
    cache, other, loader = make_face(server.tcp_url), make_face(server.tcp_url), Loader()
    other.ping()
    assert cache.get_or_load("k", cache.loader(loader)) == "loaded"
    server.halt()
    for _ in range(5):
        assert cache.get_or_load("k", cache.loader(Loader("never"))) == "loaded"
    assert cache.get_or_load("k2", cache.loader(Loader("here"))) == "here"
    server.launch()
    for each in (cache, other):
        until(lambda: answers(each))  # noqa: B023  # called at once
    cache.set("k", "set")
    assert other.get("k") == "set"
    other.invalidate("k")
    until(lambda: cache.get("k") is None)
    assert other.get_or_load("k3", other.loader(loader)) == "loaded"
    assert cache.get("k3") == "loaded"
    lost = [text for text in warnings() if "inbox is not connected" in text]
    back = [text for text in warnings() if "inbox is connected again" in text]
    assert len(lost) == len(back) == 2
    opened = [text for text in warnings() if "is open" in text]
    assert len(opened) == sum(each.stats()["breaker_opened"] for each in (cache, other))


def test_a_holder_whose_redis_goes_away_keeps_its_value(make_face: Any, server: RedisServer) -> None:
    """Redis dies during the load: the caller gets what was loaded, and it is not lost here."""
    cache, runs = make_face(server.tcp_url), []

    def load() -> str:
        runs.append(1)
        server.halt()
        return "loaded"

    assert cache.get_or_load("k", cache.loader(load)) == "loaded"
    assert cache.get_or_load("k", cache.loader(load)) == "loaded"
    assert len(runs) == 1
    assert cache.stats()["grants"] == 1


# Refusals.


@pytest.mark.parametrize("login", [f":wrong-{SECRET}@", f"nobody:{SECRET}@"])
def test_a_wrong_password_is_said_and_costs_no_value(make_face: Any, warnings: Any, login: str) -> None:
    """`ping` says that it is the login, without showing it."""
    with RedisServer(password="right") as server:
        cache, loader = make_face(f"redis://{login}127.0.0.1:{server.port}/0"), Loader()
        ping_says(cache, "(?i)password|WRONGPASS|auth")
        assert cache.get("k") is None
        for n in range(3):
            assert cache.get_or_load(f"k{n}", cache.loader(loader)) == "loaded"
        writes_are_unavailable(cache, "(?i)password|WRONGPASS|auth")
        ping_says(cache, "(?i)password|WRONGPASS|auth")
        assert loader.runs == 3
        assert sorted("inbox" in text for text in warnings()) == [False, True]


def test_a_missing_password_is_said_and_costs_no_value(make_face: Any, warnings: Any) -> None:
    """Some servers say so at the handshake, which is no connection, others at each command, which is a refusal."""
    with RedisServer(password="right") as server:
        cache, loader = make_face(f"redis://127.0.0.1:{server.port}/0"), Loader()
        ping_says(cache, "NOAUTH|Authentication required")
        for n in range(5):
            assert cache.get_or_load(f"k{n}", cache.loader(loader)) == "loaded"
        stats = cache.stats()
        bypasses = stats["bypass_refused"], stats["bypass_unanswered"] + stats["bypass_breaker"]
        assert loader.runs == 5
        assert bypasses in ((5, 0), (0, 5))
        assert stats["breaker_opened"] == (bypasses[1] > 0)
        assert sorted("inbox" in text for text in warnings()) == [False, True]
        # Redis drops who sends long commands before logging in.
        writes_are_unavailable(cache, "(?i)NOAUTH|unauthenticated|Authentication required|connection")


def test_a_read_only_replica_serves_values_and_refuses_leases(make_face: Any, warnings: Any) -> None:
    """What the primary has is a hit; a load is a bypass, kept here; writes and `ping` say READONLY."""
    with RedisServer("--repl-diskless-sync-delay", "0") as primary, RedisServer() as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", primary.port)
            make_face(primary.tcp_url).set("k", "set")
            until(lambda: client.info("replication")["master_link_status"] == "up" and client.dbsize())
        cache, loader = make_face(replica.tcp_url), Loader()
        assert cache.get("k") == "set"
        assert cache.get_or_load("k", cache.loader(loader)) == "set"
        for n in (0, 1, 2, 0, 1, 2):
            assert cache.get_or_load(f"k{n}", cache.loader(loader)) == "loaded"
        assert cache.stats()["bypass_refused"] == loader.runs == 3
        writes_are_unavailable(cache, "READONLY")
        ping_says(cache, "READONLY")
        assert [text.split(" (")[0] for text in warnings()] == ["Redis refuses with READONLY"]


def test_a_full_server_costs_no_value(make_face: Any, server: RedisServer, warnings: Any) -> None:
    """Leases work on, small or large values are kept here, writes say OOM; invalidations go through."""
    cache, other, loader = make_face(server.tcp_url), make_face(server.tcp_url), Loader()
    cache.set("old", 1)
    other.ping()
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
    for n, value in enumerate(("small", "large" * 10_000)):
        loader = Loader(value)
        for _ in range(3):
            assert cache.get_or_load(f"k{n}", cache.loader(loader)) == value
        assert loader.runs == 1
    stats = cache.stats()
    assert stats["grants"] == stats["bypass_refused"] == 2
    assert stats["commits"] == 0
    with pytest.raises(RemoteUnavailable, match=r"set 'w'.*OOM"):
        cache.set("w", 1)
    ping_says(cache, "OOM")
    assert other.get("old") == 1
    cache.invalidate("old")
    until(lambda: other.get("old") is None)
    assert [text.split(" (")[0] for text in warnings()] == ["Redis refuses with OOM"]
    with server.client() as client:
        client.config_set("maxmemory", 0)
    cache.ping()
    cache.set("w", 1)
    assert other.get("w") == 1


def test_waiters_of_a_full_server_get_a_small_value_at_once(make_cache: Any, server: RedisServer) -> None:
    """The value that could not be stored is in the message: one load for two processes."""
    cache, other = make_cache(server.tcp_url), make_cache(server.tcp_url)
    other.ping()
    loads = []

    def load() -> str:
        loads.append(1)
        until(lambda: other.stats()["waits"])
        with server.client() as client:
            client.config_set("maxmemory", 1)
        return "loaded"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_or_load, "k", load)
        until(lambda: loads)
        second = pool.submit(other.get_or_load, "k", load)
        assert first.result(SOON) == second.result(SOON) == "loaded"
    assert len(loads) == 1


def user(server: RedisServer, *rules: str) -> str:
    """The URL of a user with these rules."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", f">{SECRET}", *rules)
    return f"redis://limited:{SECRET}@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize(
    ("rules", "reads"),
    [
        (("~*", "&*", "+@all", "-@scripting"), True),
        (("~*", "&*", "+@all", "-evalsha"), True),
        (("~tc1:*", "&*", "+@all", "-hset"), True),
        (("~*", "&*", "+@connection"), False),
        (("~other:*", "&*", "+@all"), False),
    ],
    ids=["no scripts", "no evalsha", "no hset", "nothing", "other keys"],
)
def test_a_user_who_may_not_elect_loads_without_a_lease(
    make_face: Any, server: RedisServer, warnings: Any, rules: tuple[str, ...], reads: bool
) -> None:
    """Values that others stored are read where that is allowed; the one warning and `ping` say NOPERM."""
    make_face(server.tcp_url).set("k", "set")
    cache, loader = make_face(user(server, *rules)), Loader()
    assert cache.get("k") == ("set" if reads else None)
    for n in (0, 1, 2, 0, 1, 2):
        assert cache.get_or_load(f"k{n}", cache.loader(loader)) == "loaded"
    assert cache.stats()["bypass_refused"] == loader.runs == 3
    ping_says(cache, "(?i)NOPERM|can't run this command|no permissions")
    told = [text.split(" (")[0] for text in warnings()]
    assert told[-1] == "Redis refuses with NOPERM"
    assert told[:-1] == ([] if "+@all" in rules else ["The inbox is not connected"])
    assert cache.stats()["breaker_opened"] == 0


def test_a_user_without_pub_sub_has_tier_2_and_is_told(make_face: Any, server: RedisServer, warnings: Any) -> None:
    """Loads are stored for the fleet; nothing here is taken on trust; writes and `ping` say what is missing."""
    cache, loader = make_face(user(server, "~*", "+@all", "resetchannels")), Loader()
    other = make_face(server.tcp_url)
    assert cache.get_or_load("k", cache.loader(loader)) == "loaded"
    assert other.get("k") == "loaded"
    other.set("k", "newer")
    assert cache.get("k") == "newer"
    assert loader.runs == 1
    assert cache.stats()["commits"] == 1
    ping_says(cache, "NOPERM|channel")
    writes_are_unavailable(cache, "channel")
    inbox, refused = warnings()
    assert "inbox is not connected (SUBSCRIBE was refused: NOPERM" in inbox
    assert refused.startswith("Redis refuses with NOPERM")


def test_ping_says_what_only_the_inbox_lacks(make_face: Any, server: RedisServer) -> None:
    """A user who may publish and not subscribe."""
    cache = make_face(user(server, "~*", "&*", "+@all", "-subscribe"))
    ping_says(cache, "inbox is not connected: SUBSCRIBE was refused: NOPERM")


def test_a_refusal_that_ends_is_forgotten(make_face: Any, server: RedisServer) -> None:
    """The next load after the permission came is the fleet's."""
    url = user(server, "~*", "&*", "+@all", "-@scripting")
    cache, loader = make_face(url), Loader()
    assert cache.get_or_load("k", cache.loader(loader), ttl=60) == "loaded"
    user(server, "~*", "&*", "+@all")
    cache.ping()
    assert cache.get_or_load("k2", cache.loader(loader)) == "loaded"
    assert make_face(server.tcp_url).get("k2") == "loaded"


def test_a_lost_reply_to_a_commit_costs_nobody_the_value(make_cache: Any, server: RedisServer) -> None:
    """Redis hangs during the commit: the caller gets its value in time; the next process loads or finds it."""
    short = {"connect_timeout": 0.5, "call_timeout": 0.5, "call_budget": 1}
    cache = make_cache(server.tcp_url, policy=Policy(lease=0.5), **short)

    def load() -> str:
        server.process.send_signal(signal.SIGSTOP)
        return "loaded"

    try:
        began = time.monotonic()
        assert cache.get_or_load("k", load) == "loaded"
        assert time.monotonic() - began < 5
    finally:
        server.process.send_signal(signal.SIGCONT)
    other = make_cache(server.tcp_url)
    assert other.get_or_load("k", lambda: "loaded again") in ("loaded", "loaded again")


def test_close_ends_in_time_when_redis_hangs(server: RedisServer, namespace: str) -> None:
    """With a lease held and the inbox open; nothing is left running."""
    others = set(threading.enumerate())
    cache = Cache(server.tcp_url, namespace=namespace, **{**PATIENT, "call_budget": 0.5})
    cache.ping()
    loading, go_on = threading.Event(), threading.Event()

    def load() -> str:
        loading.set()
        go_on.wait(SOON)
        return "loaded"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(cache.get_or_load, "k", load)
        assert loading.wait(SOON)
        server.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            cache.close()
            assert time.monotonic() - began < 5
        finally:
            server.process.send_signal(signal.SIGCONT)
            go_on.set()
        assert running.result(SOON) == "loaded"
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith("tiercache-"):
            thread.join(SOON)
            assert not thread.is_alive()


def test_a_server_that_forgets_everything_is_no_error(make_face: Any, server: RedisServer) -> None:
    """FLUSHALL and SCRIPT FLUSH between calls: loads go on, each stored again."""
    cache, loader = make_face(server.tcp_url), Loader()
    with server.client() as client:
        for n in range(3):
            client.flushall()
            client.script_flush()
            cache.clear_local()
            assert cache.get_or_load("k", cache.loader(loader)) == "loaded"
            assert cache.stats()["commits"] == n + 1
