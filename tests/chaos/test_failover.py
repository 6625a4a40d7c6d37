"""A replica takes over: what was acknowledged may be lost, as protocol.md section 8 says, and nothing else."""

import time
from typing import Any

import pytest
from redis_server import RedisServer
from servers import BOTH, PATIENT, RUNS, SHORT, Crowd, Stage, answering, stage, until

from tiercache import Policy


def follow(on: Stage, replica: RedisServer) -> None:
    """`replica` has everything that the stage's server has."""
    with replica.client() as there, on.server.client() as here:
        there.replicaof("127.0.0.1", on.server.port)
        until(lambda: there.info("replication")["master_link_status"] == "up")
        until(lambda: there.info("replication")["slave_repl_offset"] >= here.info("replication")["master_repl_offset"])


def promote(on: Stage, replica: RedisServer) -> None:
    with replica.client() as client:
        client.replicaof("NO", "ONE")
    on.proxy.aim(replica.port)


@pytest.fixture
def replica() -> Any:
    with RedisServer("--repl-diskless-sync-delay", "0") as server:
        yield server


def on_fast_replication() -> tuple[str, ...]:
    return "--repl-diskless-sync-delay", "0"


@RUNS
def test_the_primary_dies_under_load(colour: str, policy: Policy, replica: RedisServer, record_property: Any) -> None:
    """Callers are answered all the time; each process has a new epoch, what was replicated is not loaded again."""
    with stage(colour, *on_fast_replication()) as on:
        follow(on, replica)
        faces = on.two(policy=policy, **PATIENT)
        assert [face.ask(f"kept{n}") for n in range(20) for face in faces] == [0] * 40
        epochs = [face.stats()["epochs"] for face in faces]
        with Crowd(faces) as crowd:
            crowd.goes_on()
            caught_up(on, replica)
            on.server.halt()
            crowd.goes_on()
            promote(on, replica)
            on.server = replica
            until(answering(faces))
            crowd.goes_on()
        assert all(face.stats()["epochs"] > n for face, n in zip(faces, epochs, strict=True))
        assert [face.ask(f"kept{n}") for n in range(20) for face in faces] == [0] * 40
        assert [on.source.loads[f"kept{n}"] for n in range(20)] == [1] * 20
        on.settles()
        record_property("loads", on.source.loads.total())
        record_property("bypasses", sum(face.bypasses() for face in faces))
        assert crowd.slowest < 10


def caught_up(on: Stage, replica: RedisServer) -> None:
    """What the stage's server had a moment ago is on the replica too."""
    with replica.client() as there, on.server.client() as here:
        offset = here.info("replication")["master_repl_offset"]
        until(lambda: there.info("replication")["slave_repl_offset"] >= offset)


@RUNS
def test_the_primary_steps_down_under_load(colour: str, policy: Policy, replica: RedisServer) -> None:
    """It becomes the replica, and no connection ends: what says READONLY is left for whoever is primary now."""
    with stage(colour, *on_fast_replication()) as on:
        follow(on, replica)
        old = on.server
        faces = on.two(policy=policy, **PATIENT)
        with Crowd(faces) as crowd:
            crowd.goes_on()
            promote(on, replica)
            with old.client() as client:
                client.replicaof("127.0.0.1", replica.port)
                until(lambda: client.info("replication")["master_link_status"] == "up")
            on.server = replica
            crowd.goes_on()
            until(answering(faces), "nobody looks for the new primary")
            crowd.goes_on()
        # The inboxes may still be at the old one, which hears of everything from the new one.
        on.settles()


@BOTH
def test_a_lost_lease_is_elected_again(colour: str, replica: RedisServer) -> None:
    """The replica knows nothing of the lease under which a load runs: it is lost and counted, its value is not."""
    with stage(colour, *on_fast_replication()) as on:
        faces = on.two(policy=SHORT, **PATIENT)

        def fail_over() -> None:
            on.source.during = lambda: None
            on.server.halt()
            promote(on, replica)
            on.server = replica
            until(answering(faces))
            assert faces[1].ask("k") == 0
            until(lambda: faces[0].stats()["leases_lost"])

        on.source.during = fail_over
        assert faces[0].ask("k") == faces[0].ask("k") == 0
        assert on.source.loads["k"] == 2
        assert faces[0].stats()["leases_lost"] == 1
        assert faces[0].stats()["commits"] == 0
        on.settles()


@BOTH
def test_a_failover_can_lose_an_acknowledged_invalidation(colour: str, replica: RedisServer) -> None:
    """The one thing that can't be promised: the old value comes back, until its hard lifetime ends."""
    hard = 4.0
    policy = Policy(ttl=hard, jitter=0, beta=0, stale_if_error=0)
    with stage(colour, *on_fast_replication()) as on:
        faces = on.two(policy=policy, **PATIENT)
        assert [face.ask("k") for face in faces] == [0, 0]
        loaded = time.monotonic()
        follow(on, replica)
        promote(on, replica)  # from here on it hears nothing, as if the network between the two were cut
        faces[0].replace("k")
        until(lambda: faces[1].ask("k") == 1)
        on.server.halt()
        on.server = replica
        until(answering(faces))
        assert 0 in [face.ask("k") for face in faces]
        until(lambda: [face.ask("k") for face in faces] == [1, 1])
        assert time.monotonic() - loaded < hard + 10
        on.settles()
