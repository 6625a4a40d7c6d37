"""Redis is restarted, stopped, emptied of its scripts, read-only, or cuts its clients, all under load."""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers import BOTH, PATIENT, RUNS, SHORT, Crowd, Face, Stage, answering, meanwhile, stage, until

from tiercache import Policy, RemoteUnavailable


def takes_a_while() -> None:
    time.sleep(0.01)


@RUNS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_restart_under_load(
    colour: str, policy: Policy, number: signal.Signals, amount: Any, record_property: Any
) -> None:
    """It comes back empty: callers get their answers all the time, and then everything is as it was."""
    with stage(colour) as on:
        faces = on.two(policy=policy)
        on.source.during = takes_a_while
        with Crowd(faces) as crowd:
            for _ in range(amount(1, 10)):
                crowd.goes_on()
                on.server.process.send_signal(number)
                on.server.process.wait(30)
                crowd.goes_on()
                on.server.restart()
                crowd.goes_on()
                until(answering(faces))
        on.settles()
        record_property("answers", crowd.answers)
        record_property("bypasses", sum(face.bypasses() for face in faces))
        assert crowd.slowest < 10


@RUNS
def test_a_stop_under_load(colour: str, policy: Policy, amount: Any, record_property: Any) -> None:
    """Redis hangs for longer than a budget and a lease: the breakers open, callers go on, the breakers close."""
    with stage(colour) as on:
        faces = on.two(policy=policy)
        on.source.during = takes_a_while
        with Crowd(faces) as crowd:
            for _ in range(amount(1, 10)):
                crowd.goes_on()
                opened = on.totals()["breaker_opened"]
                on.server.process.send_signal(signal.SIGSTOP)
                try:
                    began = time.monotonic()
                    until(lambda: on.totals()["breaker_opened"] >= opened + 2)  # noqa: B023  # called at once
                    until(lambda: time.monotonic() - began > 1.0)  # noqa: B023
                    crowd.goes_on()
                finally:
                    on.server.process.send_signal(signal.SIGCONT)
                until(answering(faces))
                crowd.goes_on()
        on.settles()
        record_property("bypasses", sum(face.bypasses() for face in faces))
        assert crowd.slowest < 10


@RUNS
def test_scripts_are_flushed_under_load(colour: str, policy: Policy, amount: Any) -> None:
    """A script that Redis no longer knows is sent again: each key is loaded once all the same, by a lease."""
    with stage(colour) as on:
        faces = on.two(policy=policy, **PATIENT)
        with on.server.client() as client, meanwhile(client.script_flush), Crowd(faces) as crowd:
            crowd.goes_on(amount(1000, 10_000))
        assert set(on.source.loads.values()) == {1}
        assert [face.bypasses() for face in faces] == [0, 0]
        assert on.totals()["commits"] == on.source.loads.total()
        on.settles()


def no_replicas(on: Stage, begins: bool) -> None:
    with on.server.client() as client:
        client.config_set("min-replicas-to-write", int(begins))


def a_replica_of_nobody(on: Stage, begins: bool) -> None:
    with on.server.client() as client:
        if begins:
            client.replicaof("127.0.0.1", 1)
        else:
            client.replicaof("NO", "ONE")


@RUNS
@pytest.mark.parametrize("read_only", [no_replicas, a_replica_of_nobody])
def test_read_only_under_load(
    colour: str, policy: Policy, read_only: Callable[[Stage, bool], None], amount: Any
) -> None:
    """What is stored is read on; loads are made without a lease and counted; writes say what is wrong."""
    with stage(colour) as on:
        faces = on.two(policy=policy, **PATIENT)
        with Crowd(faces) as crowd:
            for n in range(amount(1, 10)):
                crowd.goes_on()
                first = faces[0].ask(f"kept{n}")
                read_only(on, True)
                loads = on.source.loads[f"kept{n}"]
                assert faces[1].ask(f"kept{n}") == first
                assert on.source.loads[f"kept{n}"] == loads
                refused = on.totals()["bypass_refused"]
                crowd.goes_on()
                assert on.totals()["bypass_refused"] > refused
                for write in (lambda: faces[0].set("w", 1), lambda: faces[0].invalidate("w")):
                    with pytest.raises(RemoteUnavailable, match=r"READONLY|NOREPLICAS"):
                        write()
                read_only(on, False)
                until(answering(faces))
        on.settles()
        assert on.totals()["breaker_opened"] == 0


@BOTH
def test_command_connections_are_killed_under_load(colour: str, amount: Any) -> None:
    """`CLIENT KILL TYPE normal` again and again: every caller gets an answer, and afterwards all is well."""
    with stage(colour) as on:
        faces = on.two(policy=SHORT)
        with on.server.client() as client, Crowd(faces) as crowd:

            def kill() -> None:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                time.sleep(0.005)

            with meanwhile(kill):
                crowd.goes_on(amount(500, 10_000))
        on.settles()
        assert crowd.slowest < 10


class Watch:
    """Asks a cache for items all the time: nothing older than an invalidation that the cache has handled."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.handled: set[str] = set()
        self.keys: list[str] = []
        self._newest: dict[str, int] = {}
        node = face.cache._process.node
        cut = node.cut

        def noted(key: str, *args: Any, **kwargs: Any) -> None:
            cut(key, *args, **kwargs)
            self.handled.add(key)

        node.cut = noted  # type: ignore[method-assign]

    def look(self) -> None:
        for key in list(self.keys):
            least = max(self._newest.get(key, 0), key in self.handled)
            version = self.face.ask(key)
            assert version >= least, (key, version, least)
            self._newest[key] = version


def pubsub_clients(on: Stage) -> set[str]:
    with on.server.client() as client:
        return {each["id"] for each in client.client_list(_type="pubsub")}


def invalidations_go_on(on: Stage, writer: Face, watch: Watch, n: int, between: Callable[[], None]) -> None:
    """Ten items are known to the watcher; they are invalidated around `between`, and it hears or learns of all."""
    keys = [f"item{n}-{i}" for i in range(10)]
    assert [watch.face.ask(key) for key in keys] == [0] * 10
    watch.keys = keys
    with meanwhile(watch.look):
        for key in keys[:5]:
            writer.replace(key)
        between()
        for key in keys[5:]:
            writer.replace(key)
        until(lambda: all(watch.face.ask(key) == 1 for key in keys), "an invalidation was never learnt of")


@RUNS
def test_inboxes_are_killed_in_a_loop(colour: str, policy: Policy, amount: Any) -> None:
    """Each kill is a new epoch of every process; no stale answer once an invalidation was handled, none for ever."""
    with stage(colour) as on:
        writer, reader = on.face(policy=policy, **PATIENT), on.face(policy=policy, **PATIENT)
        watch = Watch(reader)
        until(answering(on.faces))
        rounds = amount(4, 30)

        def kill() -> None:
            epochs = [face.stats()["epochs"] for face in on.faces]
            with on.server.client() as client:
                assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 2
            until(lambda: [face.stats()["epochs"] for face in on.faces] == [n + 1 for n in epochs])

        for n in range(rounds):
            invalidations_go_on(on, writer, watch, n, kill)
        assert [face.stats()["epochs"] for face in on.faces] == [rounds + 1] * 2
        # One load per version: what a new epoch makes unverified is looked at again, not loaded again.
        assert on.source.loads.total() == rounds * 20
        assert on.totals()["bypass_refused"] == on.totals()["breaker_opened"] == 0
        on.settles()


@BOTH
def test_an_inbox_that_overruns_its_buffer(colour: str, amount: Any) -> None:
    """Redis drops a subscriber that reads too slowly: a new epoch, and nothing that was missed is served for ever."""
    with stage(colour, "--client-output-buffer-limit", "pubsub 256kb 0 0") as on:
        writer, reader = on.face(on.server.tcp_url, **PATIENT), on.face(**PATIENT)
        watch = Watch(reader)
        until(answering(on.faces))

        def overrun() -> None:
            epochs = reader.stats()["epochs"]
            before = pubsub_clients(on)
            channel = reader.cache._process.node.remote.names.inbox(reader.cache._process.node.remote.process)
            on.proxy.hold_inbox()
            with on.server.client() as client:
                until(lambda: not client.publish(channel, b"x" * 200_000))
            on.proxy.recover()
            until(lambda: reader.stats()["epochs"] > epochs)
            assert len(pubsub_clients(on) - before) == 1

        for n in range(amount(2, 10)):
            invalidations_go_on(on, writer, watch, n, overrun)
        assert writer.stats()["epochs"] == 1
        on.settles()
