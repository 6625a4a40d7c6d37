"""Redis is full: whatever it evicts or refuses, callers are answered, leases end, and nothing is stored twice."""

from typing import Any

import pytest
from servers import PATIENT, SHORT, Crowd, Face, Stage, stage, until

from tiercache import Policy

EVICTING = [f"{keys}-{which}" for keys in ("allkeys", "volatile") for which in ("lru", "lfu", "random")]
KINDS = [*EVICTING, "volatile-ttl", "noeviction"]


def fill(on: Stage, maxmemory_policy: str) -> None:
    """From now on Redis has room for 200 kB more than it uses."""
    with on.server.client() as client:
        client.config_set("maxmemory-policy", maxmemory_policy)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)


def is_full(on: Stage, maxmemory_policy: str) -> bool:
    if maxmemory_policy == "noeviction":
        return bool(on.totals()["bypass_refused"])
    with on.server.client() as client:
        return bool(client.info("stats")["evicted_keys"] > 20)


@pytest.mark.parametrize(
    ("maxmemory_policy", "colour", "policy"),
    [(kind, "async" if n % 2 else "sync", SHORT) for n, kind in enumerate(KINDS)]
    + [("noeviction", "sync", SHORT), ("volatile-ttl", "async", Policy())],
)
def test_a_full_server_under_load(
    maxmemory_policy: str, colour: str, policy: Policy, amount: Any, record_property: Any
) -> None:
    """Callers get answers of the right size and version; every load had a lease or is counted."""
    with stage(colour) as on:
        faces = on.two(policy=policy, **PATIENT)
        on.source.sizes = (200, 20_000)  # the larger ones are staged
        fill(on, maxmemory_policy)
        with Crowd(faces, row=6) as crowd:
            until(lambda: is_full(on, maxmemory_policy), "it does not get full")
            grants = on.totals()["grants"]
            crowd.goes_on(amount(100, 4_000))
            totals = on.totals()
            assert totals["grants"] > grants  # leases work where values can't be stored
        loads = on.source.loads
        record_property("keys", len(loads))
        record_property("loads", loads.total())
        record_property("rejected", totals["commit_rejected"])
        _invalidations_go_through(on, faces)
        assert totals["breaker_opened"] == 0
        with on.server.client() as client:
            client.config_set("maxmemory", 0)
        on.settles()


def _invalidations_go_through(on: Stage, faces: list[Face]) -> None:
    for n in range(5):
        key = f"old{n}"
        assert [face.ask(key) for face in faces] == [0, 0]
        faces[0].replace(key)
        until(lambda: faces[1].ask(key) == 1)  # noqa: B023  # called at once
        assert faces[0].ask(key) == 1
