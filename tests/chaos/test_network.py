"""The network between caches and Redis: cuts, delays, half-open connections, replies and commands that come late."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers import BOTH, PATIENT, RUNS, SHORT, Crowd, Face, Stage, answering, meanwhile, stage, until

from tiercache import LoadFailed, Policy, RemoteUnavailable
from tiercache.remote import commands

STEADY = {"connect_timeout": 5, "call_timeout": 0.5, "call_budget": 10}  # one lost reply costs half a second
LOST = pytest.mark.parametrize(("colour", "cut"), [("sync", True), ("async", False)], ids=["sync-cut", "async-silence"])


def sha(script: commands.Script) -> bytes:
    return script.sha.encode()


# Cuts and delays under load.


@RUNS
def test_cuts_at_random_moments(colour: str, policy: Policy, amount: Any, record_property: Any) -> None:
    """Every connection is cut again and again, in order or with a reset: callers are answered, counts are true."""
    with stage(colour) as on:
        faces = on.two(policy=policy)
        cuts = []

        def cut() -> None:
            cuts.append(1)
            on.proxy.cut(inbox=random.choice((None, True, False)), reset=random.random() < 0.5)
            time.sleep(random.uniform(0, 0.03))

        with Crowd(faces) as crowd, meanwhile(cut):
            crowd.goes_on(amount(500, 10_000))
        on.settles()
        record_property("cuts", len(cuts))
        record_property("loads", on.source.loads.total())
        record_property("bypasses", sum(face.bypasses() for face in faces))
        assert crowd.slowest < 10


@BOTH
@pytest.mark.parametrize("way", ["up", "down"])
def test_cuts_within_a_message(colour: str, way: Any, amount: Any) -> None:
    """After any number of bytes, in a command or a reply: nobody gets half a value or another's."""
    with stage(colour) as on:
        faces = on.two(policy=SHORT, **PATIENT)
        on.source.sizes = (0, 30_000)
        for n in range(amount(40, 1000)):
            on.proxy.cut_after(int(10 ** random.uniform(0, 5)), way)
            assert [face.ask(f"k{n // 2}") for face in faces] == [0, 0]
        on.proxy.recover()
        on.settles()
        assert on.totals()["undecodable"] == 0


@RUNS
def test_a_delay_below_the_timeout_costs_time_alone(colour: str, policy: Policy, amount: Any) -> None:
    """20 ms each way: each key is loaded once, and nothing goes around the lease."""
    with stage(colour) as on:
        faces = on.two(policy=Policy(lease=3) if policy is SHORT else policy, **PATIENT)
        on.proxy.delay(0.02)
        with Crowd(faces) as crowd:
            crowd.goes_on(amount(100, 5000))
        assert set(on.source.loads.values()) == {1}
        assert [face.bypasses() for face in faces] == [0, 0]
        on.settles()


@RUNS
def test_a_delay_above_the_timeout_opens_the_breaker(colour: str, policy: Policy, amount: Any) -> None:
    """300 ms each way: loads are made under the local flight; when it is over, the breakers close."""
    with stage(colour) as on:
        faces = on.two(policy=policy)
        with Crowd(faces) as crowd:
            crowd.goes_on()
            on.proxy.delay(0.3)
            until(lambda: all(face.stats()["breaker_opened"] for face in faces))
            crowd.goes_on(amount(200, 10_000))
            on.proxy.recover()
            until(answering(faces))
        on.settles()
        assert crowd.slowest < 10


# Half-open connections.


@RUNS
def test_a_half_open_connection_under_load(colour: str, policy: Policy, amount: Any) -> None:
    """All bytes vanish and no connection ends: callers are answered within their budget, then all is well again."""
    with stage(colour) as on:
        faces = on.two(policy=policy)
        with Crowd(faces) as crowd:
            for way in [["up"], ["down"], ["up", "down"]][: amount(2, 3)]:
                crowd.goes_on()
                opened = on.totals()["breaker_opened"]
                on.proxy.drop(*way)
                until(lambda: on.totals()["breaker_opened"] >= opened + 2)  # noqa: B023  # called at once
                crowd.goes_on()
                on.proxy.recover()
                until(answering(faces))
        on.settles()
        assert crowd.slowest < 10


@BOTH
def test_a_deaf_inbox_is_noticed(colour: str) -> None:
    """Only the inbox hears nothing, not even an end: soon nothing is trusted, and each read asks Redis."""
    policy = Policy(local_ttl=300)
    with stage(colour) as on:
        writer = on.face(on.server.tcp_url, policy=policy, **PATIENT)
        reader = on.face(policy=policy, **PATIENT)
        until(answering(on.faces))
        assert reader.ask("k") == reader.ask("other") == 0
        on.proxy.hold_inbox()
        writer.replace("k")
        until(lambda: reader.ask("k") == 1, "the old value is served for ever")
        assert reader.ask("other") == 0
        assert on.source.loads == {"k": 2, "other": 1}
        on.proxy.recover()
        on.settles()


@pytest.mark.parametrize("colour", ["async"])
def test_an_entry_outlives_a_network_that_swallows_everything(colour: str) -> None:
    """It is served, counted as unverified, until Redis can be asked again: then an invalidation has its effect."""
    with stage(colour) as on:
        writer, reader = on.face(on.server.tcp_url, **PATIENT), on.face()
        until(answering(on.faces))
        assert reader.ask("k") == 0
        on.proxy.drop()
        writer.replace("k")
        until(lambda: reader.ask("k") == 0 and reader.stats()["unverified_served"])
        on.proxy.recover()
        until(lambda: reader.ask("k") == 1)
        assert on.source.loads["k"] == 2
        on.settles()


# Lost replies: Redis executed it, the client never heard.


def a_read(on: Stage, near: Face, far: Face) -> None:
    assert near.ask("k") == far.ask("k") == 0


def a_failure(on: Stage, near: Face, far: Face) -> None:
    def fail() -> None:
        raise KeyError("no")

    on.source.during = fail
    with pytest.raises(KeyError):
        near.ask("k", error_backoff=30, error_backoff_max=30)
    with pytest.raises(LoadFailed, match="KeyError"):
        far.ask("k")
    with on.server.client() as client:
        assert client.hget("tc1:{chaos:k}:f", "count") == b"1"


def a_long_load(on: Stage, near: Face, far: Face) -> None:
    on.source.during = lambda: until(lambda: on.proxy.lost) and time.sleep(2.5)
    assert near.ask("k", lease=1) == 0
    assert far.ask("k") == 0


@LOST
@pytest.mark.parametrize(
    ("to", "act"),
    [
        (b"{chaos:k}:v", a_read),
        (sha(commands.ACQUIRE), a_read),
        (sha(commands.COMMIT), a_read),
        (sha(commands.RELEASE), a_failure),
        (sha(commands.RENEW), a_long_load),
    ],
    ids=["read", "acquire", "commit", "release", "renew"],
)
def test_a_lost_reply_is_asked_for_again(
    colour: str, cut: bool, to: bytes, act: Callable[[Stage, Face, Face], None]
) -> None:
    """Whatever is idempotent is repeated: one load, one grant, no way around the lease."""
    with stage(colour) as on:
        near, far = on.face(**STEADY), on.face(on.server.tcp_url, **PATIENT)
        until(answering(on.faces))
        on.proxy.lose_reply(to, cut=cut)
        act(on, near, far)
        assert on.proxy.lost == 1
        totals = on.totals()
        assert on.source.loads == {"k": 1}
        assert totals["grants"] == 1
        assert totals["leases_lost"] == totals["commit_rejected"] == 0
        assert [face.bypasses() for face in on.faces] == [0, 0]
        on.source.during = lambda: None
        if act is a_failure:
            assert totals["load_failures"] == 1
            near.cache._process.node.count("load_failures", -1)
        on.settles()


@LOST
@pytest.mark.parametrize("size", [0, 30_000], ids=["small", "staged"])
def test_a_set_whose_reply_is_lost(colour: str, cut: bool, size: int) -> None:
    """It is not repeated, and may have been done: the error says so, and here nothing is kept of the old value."""
    with stage(colour) as on:
        near, far = on.face(**STEADY), on.face(on.server.tcp_url, **PATIENT)
        until(answering(on.faces))
        old, new = ["k", 0, "old"], ["k", 1, "x" * size]
        near.set("k", old)
        assert far.get("k") == near.get("k") == old
        on.proxy.lose_reply(sha(commands.WRITE), cut=cut)
        with pytest.raises(RemoteUnavailable, match="'k'"):
            near.set("k", new)
        until(lambda: far.get("k") == new)  # Redis did it, and told everybody
        assert near.get("k") == new
        assert on.proxy.lost == 1
        on.settles()


@LOST
def test_an_invalidation_whose_reply_is_lost(colour: str, cut: bool) -> None:
    """The caller is told that it does not know; neither it nor, once it was done, anybody else gets the old value."""
    with stage(colour) as on:
        near, far = on.face(**STEADY), on.face(on.server.tcp_url, **PATIENT)
        until(answering(on.faces))
        assert near.ask("k") == far.ask("k") == 0
        on.proxy.lose_reply(sha(commands.INVALIDATE), cut=cut)
        with pytest.raises(RemoteUnavailable, match="'k'"):
            near.replace("k")
        assert near.ask("k") == 1
        until(lambda: far.ask("k") == 1)
        assert on.source.loads == {"k": 2}
        on.settles()


@LOST
def test_an_acquire_that_is_never_answered_is_a_bypass(colour: str, cut: bool) -> None:
    """Both tries were executed and neither heard: one load more, which is not stored, and the lease is given back."""
    policy = Policy(lease=60)
    with stage(colour) as on:
        near, far = on.face(policy=policy, **STEADY), on.face(on.server.tcp_url, policy=policy, **PATIENT)
        until(answering(on.faces))
        commits = on.totals()["commits"]
        on.proxy.lose_reply(sha(commands.ACQUIRE), cut=cut, times=2)
        began = time.monotonic()
        assert near.ask("k") == 0
        assert near.stats()["bypass_unanswered"] == near.bypasses() == 1
        assert on.totals()["commits"] == commits
        assert far.ask("k") == 0  # it does not wait for the lease's end
        assert time.monotonic() - began < 30
        assert on.source.loads == {"k": 2}
        on.source.versions["k"] = 1  # without an invalidation: it tells whose value is served
        with on.server.client() as client:
            client.delete("tc1:{chaos:k}:v")
        far.clear_local()
        assert far.ask("k") == near.ask("k") == 1
        on.settles()


@LOST
@pytest.mark.parametrize("size", [0, 30_000], ids=["small", "staged"])
def test_a_commit_that_is_never_answered(colour: str, cut: bool, size: int) -> None:
    """The caller has its value, and so has everybody: it was stored."""
    with stage(colour) as on:
        on.source.sizes = (size,)
        near, far = on.face(**STEADY), on.face(on.server.tcp_url, **PATIENT)
        until(answering(on.faces))
        on.proxy.lose_reply(sha(commands.COMMIT), cut=cut, times=2)
        assert near.ask("k") == far.ask("k") == near.ask("k") == 0
        assert on.source.loads == {"k": 1}
        on.settles()


@BOTH
def test_a_commit_that_never_arrives(colour: str) -> None:
    """The caller has its value, which is not taken on trust: what another process stores is what counts."""
    with stage(colour) as on:
        near, far = on.face(policy=SHORT), on.face(on.server.tcp_url, policy=SHORT, **PATIENT)
        until(answering(on.faces))
        on.source.during = lambda: on.proxy.drop("up")
        assert near.ask("k") == 0
        on.source.during = lambda: None
        on.proxy.recover()
        on.source.versions["k"] = 1  # without an invalidation
        assert far.ask("k") == 1
        until(lambda: near.ask("k") == 1, "it is served for ever")
        assert on.source.loads == {"k": 2}
        on.settles()


# Commands that arrive when their client has given up, and after an invalidation.


@BOTH
def test_a_late_acquire_stores_nothing_old(colour: str) -> None:
    """It takes a lease for nobody: the next load waits for that lease at most, and is of the new version."""
    with stage(colour) as on:
        near, far = on.face(policy=SHORT), on.face(on.server.tcp_url, policy=SHORT, **PATIENT)
        until(answering(on.faces))
        assert near.ask("k") == 0
        far.replace("k")
        until(lambda: near.cache.table.peek("k") is None)
        on.proxy.hold("up")
        assert near.ask("k") == 1  # a bypass
        far.replace("k")
        on.proxy.recover()
        until(near.answers)
        assert far.ask("k") == near.ask("k") == 2
        fresh = on.face(on.server.tcp_url, **PATIENT)
        assert fresh.ask("k") == 2
        on.settles()


@BOTH
@pytest.mark.parametrize("size", [0, 30_000], ids=["small", "staged"])
def test_a_late_commit_stores_nothing_old(colour: str, size: int, amount: Any) -> None:
    """The commit of a load that an invalidation overtook is rejected, however late it comes."""
    with stage(colour) as on:
        on.source.sizes = (size,)
        policy = Policy(lease=30)  # so that it is not the lease's end that rejects it
        near, far = on.face(policy=policy), on.face(on.server.tcp_url, policy=policy, **PATIENT)
        until(answering(on.faces))
        for n in range(amount(2, 30)):
            key = f"k{n}"
            until(answering(on.faces))
            on.source.during = lambda: on.proxy.hold("up")
            assert near.ask(key) == 0
            on.source.during = lambda: None
            far.replace(key)
            on.proxy.recover()
            until(near.answers)
            assert far.ask(key) == 1
            assert near.ask(key) == 1
            assert on.face(on.server.tcp_url, **PATIENT).ask(key) == 1
        on.settles()
