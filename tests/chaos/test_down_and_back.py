"""Redis is away for the whole run, or comes back: budgets, one load per process, and everything as it was."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from redis_server import free_port
from servers import BOTH, RUNS, SHORT, Crowd, Face, Source, answering, become_patient, looping, stage, until

from tiercache import Cache, Policy, RemoteUnavailable

BUDGET = 0.5
SLACK = 4.0  # for a busy machine
AWAY = ("bypass_unanswered", "bypass_breaker")


@contextmanager
def refusing() -> Iterator[str]:
    """Nobody listens."""
    yield f"redis://127.0.0.1:{free_port()}/0"


@contextmanager
def silent() -> Iterator[str]:
    """Connections are made, and nothing is ever answered."""
    with stage("sync") as on:
        on.proxy.drop()
        yield on.proxy.url


KINDS = pytest.mark.parametrize("away", [refusing, silent])


def a_process(pipe: Any, _: str, namespace: str, url: str, colour: str, policy: Policy) -> None:
    """Three herds of ten threads, each for one key, without Redis; sends what they saw."""
    source = Source()
    with looping(colour) as loop:
        face = Face(Cache(url, namespace=namespace, policy=policy), source, loop)
        slowest = []
        for key in ("a", "b", "c"):
            joins = face.stats()["joins"]
            source.during = lambda before=joins: until(lambda: face.stats()["joins"] >= before + 9)

            def call(_: int, key: str = key) -> int:
                began = time.monotonic()
                version: int = face.ask(key)
                slowest.append(time.monotonic() - began)
                return version

            with ThreadPoolExecutor(10) as pool:
                assert list(pool.map(call, range(10))) == [0] * 10
        refused = []
        for act in (lambda: face.set("d", 1), lambda: face.invalidate("a")):
            began = time.monotonic()
            try:
                act()
            except RemoteUnavailable as error:
                refused.append(str(error))
            slowest.append(time.monotonic() - began)
        source.during = lambda: None
        again = [face.ask("a"), face.ask("b")]
        stats = face.stats()
        began = time.monotonic()
        face.close()
        closing = time.monotonic() - began
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("tiercache-")])
    pipe.send((source.loads, max(slowest), refused, again, stats, closing))


@RUNS
@KINDS
def test_processes_without_redis(
    start: Any, colour: str, policy: Policy, away: Callable[[], Any], record_property: Any
) -> None:
    """One load per process and key; each call ends within its budget; writes act here and say so; closing is quick."""
    with away() as url:
        processes = [start(a_process, url, colour, policy) for _ in range(2)]
        heard = [each.hear() for each in processes]
    for loads, slowest, refused, again, stats, closing in heard:
        assert loads == {"a": 2, "b": 1, "c": 1}  # `a` was invalidated, `b` is served on
        assert again == [0, 0]
        assert len(refused) == 2
        assert "'d'" in refused[0]
        assert "'a'" in refused[1]
        assert stats["loads"] == sum(stats[name] for name in AWAY) == 4
        assert stats["grants"] == stats["bypass_refused"] == stats["bypass_nested"] == 0
        assert stats["breaker_opened"] == 1
        assert stats["unverified_served"] >= 1
        assert slowest < BUDGET + SLACK
        assert closing < 4 * BUDGET + SLACK
        record_property("slowest_ms", round(slowest * 1000))


@pytest.mark.parametrize(("colour", "away"), [("sync", refusing), ("async", silent)])
def test_stale_values_are_served_where_the_policy_allows(colour: str, away: Any) -> None:
    """When Redis and the source are both away: within stale_if_error the old value, then the error."""
    with away() as url, looping(colour) as loop:
        source = Source()
        policy = Policy(ttl=0.2, jitter=0, beta=0, stale_if_error=2.0)
        face = Face(Cache(url, namespace="chaos", policy=policy), source, loop)

        def fail() -> None:
            raise KeyError("the source is away")

        try:
            assert face.ask("k") == 0
            source.versions["k"] = 1
            source.during = fail
            fresh_ends = face.cache.table.peek("k").fresh
            until(lambda: time.monotonic() > fresh_ends)
            assert face.ask("k") == 0
            assert face.stats()["stale_served"] == face.stats()["load_failures"] == 1
            until(lambda: time.monotonic() > fresh_ends + 2.0)
            with pytest.raises(KeyError):
                face.ask("k")
            source.during = lambda: None
            until(lambda: _is_back(face))
        finally:
            face.close()


def _is_back(face: Face) -> bool:
    try:
        return face.ask("k") == 1
    except KeyError:  # its cooldown has not ended
        return False


@RUNS
@pytest.mark.parametrize("silence", [False, True], ids=["refusing", "silent"])
def test_redis_comes_back(colour: str, policy: Policy, silence: bool, amount: Any, record_property: Any) -> None:
    """By themselves breakers close and inboxes subscribe; what was loaded meanwhile is looked at again."""
    with stage(colour) as on:
        faces = on.two(policy=policy)
        for n in range(amount(1, 10)):
            mine = f"mine{n}"
            assert faces[1].ask(mine) == 0
            with Crowd(faces) as crowd:
                crowd.goes_on()
                epochs = [face.stats()["epochs"] for face in faces]
                opened = [face.stats()["breaker_opened"] for face in faces]
                if silence:
                    on.proxy.drop()
                else:
                    on.proxy.refuse()
                    on.proxy.cut()
                until(lambda: all(face.stats()["breaker_opened"] > o for face, o in zip(faces, opened, strict=True)))  # noqa: B023
                crowd.goes_on()
                # Both load it, each for itself, and a third writer with a better connection replaces it.
                versions = [face.ask(f"both{n}") for face in faces]
                assert versions == [0, 0]
                assert on.source.loads[f"both{n}"] == 2
                with pytest.raises(RemoteUnavailable):
                    faces[0].invalidate("nothing")
                other = on.face(on.server.tcp_url)
                until(other.answers)
                other.replace(mine)
                other.replace(f"both{n}")
                assert other.ask(f"both{n}") == 1
                on.proxy.recover()
                if not silence:  # else an inbox that missed nothing lives on
                    until(lambda: all(face.stats()["epochs"] > e for face, e in zip(faces, epochs, strict=True)))  # noqa: B023
                until(lambda: not any(face.cache._process.node.remote.remaining() for face in faces))
            until(lambda: [face.ask(f"both{n}") for face in faces] == [1, 1])  # noqa: B023
            until(lambda: faces[1].ask(mine) == 1)  # noqa: B023
            assert on.source.loads[f"both{n}"] == 3
        bypasses = [face.bypasses() for face in faces]
        on.settles()
        assert [face.bypasses() for face in faces] == bypasses
        record_property("bypasses", sum(bypasses))
        assert crowd.slowest < BUDGET + SLACK


@BOTH
def test_the_breaker_closes_without_callers_in_its_way(colour: str) -> None:
    """No ping, only reads: the next one after the pause asks Redis, and an old entry is not taken on trust."""
    with stage(colour) as on:
        near, far = on.face(policy=SHORT), on.face(on.server.tcp_url, policy=SHORT)
        until(answering(on.faces))
        assert near.ask("k") == 0
        on.proxy.refuse()
        on.proxy.cut()
        until(lambda: near.ask("k") == 0 and near.stats()["breaker_opened"])
        assert near.stats()["unverified_served"]
        far.replace("k")
        on.proxy.recover()
        until(lambda: near.ask("k") == 1, "it is never asked again")
        assert on.source.loads == {"k": 2}
        until(lambda: near.stats()["epochs"] == 2)
        on.settles()


def a_remote_face(pipe: Any, _: str, namespace: str, url: str, colour: str, policy: Policy) -> None:
    """A process of the fleet: between `crowd` and `stop` it asks all the time; meanwhile it does as it is told."""
    with looping(colour) as loop:
        source = Source()
        face = Face(Cache(url, namespace=namespace, policy=policy), source, loop)
        crowd = None
        while order := pipe.recv():
            what, *args = order
            if what == "crowd":
                crowd = Crowd([face])
            elif what == "stop" and crowd is not None:
                crowd.stop()
            elif what == "goes_on" and crowd is not None:
                crowd.goes_on(*args)
            elif what == "patient":
                become_patient(face.cache)
            elif what == "version":
                source.versions[args[0]] = args[1]
            answer = getattr(face, what)(*args) if what in ("ask", "invalidate", "answers", "stats") else None
            pipe.send((answer, source.loads))
        face.close()


@RUNS
def test_processes_ride_out_a_restart(start: Any, colour: str, policy: Policy, amount: Any) -> None:
    """Redis is killed and comes back empty under three processes: each is answered, then they are one fleet again."""
    with stage(colour) as on:
        processes = [start(a_remote_face, on.server.tcp_url, colour, policy) for _ in range(3)]

        def each(*order: Any) -> list[Any]:
            for process in processes:
                process.tell(order)
            return [process.hear()[0] for process in processes]

        def loads(key: str) -> int:
            for process in processes:
                process.tell(("loads",))
            return sum(process.hear()[1][key] for process in processes)

        until(lambda: all(each("answers")))
        for n in range(amount(1, 10)):
            each("crowd")
            each("goes_on")
            on.server.halt()
            each("goes_on")
            on.server.launch()
            until(lambda: all(each("answers")))
            each("stop")
            each("patient")
            bypasses = [sum(stats[name] for name in AWAY) for stats in each("stats")]
            key = f"k{n}"
            assert each("ask", key) == [0] * 3
            assert loads(key) == 1
            each("version", key, 1)
            processes[0].tell(("invalidate", key))
            processes[0].hear()
            until(lambda: each("ask", key) == [1] * 3)  # noqa: B023  # called at once
            assert loads(key) == 2
            stats = each("stats")
            assert [sum(one[name] for name in AWAY) for one in stats] == bypasses
            assert all(one["epochs"] >= 2 for one in stats)
        for process in processes:
            process.tell(None)
            assert process.end() == 0
