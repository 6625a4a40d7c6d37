"""Groups hit, hit-decorated, hit-async: hits in tier 1 beside lru_cache, an empty coroutine and other caches."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hits import HITS, YARDSTICKS, Hit, loop, names
from peers import PEERS, Peer
from rows import Row

BESIDE = {"hit": "lru('key')", "hit-decorated": "lru(42)", "hit-async": "await nothing()"}  # the peers of a group

Run = Callable[[str, dict[str, Any]], Callable[[int], Any]]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return names()


@pytest.fixture
def run(event_loop: asyncio.AbstractEventLoop) -> Run:
    """Makes a function that runs a statement n times: on the loop, if it awaits."""

    def make(statement: str, names: dict[str, Any]) -> Callable[[int], Any]:
        body = loop(statement, names)
        return (lambda n: event_loop.run_until_complete(body(n))) if "await " in statement else body

    return make


@pytest.mark.parametrize("statement", YARDSTICKS)
def test_yardstick(row: Row, statement: str, found: dict[str, Any], run: Run) -> None:
    for group in dict.fromkeys(hit.group for hit in HITS if hit.yardstick == statement):
        row.note(group, YARDSTICKS[statement], "yardstick")
    row.time(run(statement, found))


@pytest.mark.parametrize("hit", HITS, ids=lambda hit: hit.name)
def test_tiercache(row: Row, hit: Hit, found: dict[str, Any], run: Run) -> None:
    row.note(hit.group, hit.name, "ours", YARDSTICKS[hit.yardstick])
    row.time(run(hit.ours, found))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peer(row: Row, peer: Peer, run: Run) -> None:
    row.note(peer.group, peer.name, "peer", YARDSTICKS[BESIDE[peer.group]], peer.note)
    found = peer.ready()
    row.time(run(peer.statement, found))
    for end in found.get("ends", ()):
        end()
