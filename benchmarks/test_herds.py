"""Group herd: cold keys under many callers over processes, beside bare events or futures and other caches.

The arms of a scene take turns; the figures are medians over the turns. One more turn runs under MONITOR, and in the
quick form it is the only one.
"""

import importlib.util
from typing import Any

import pytest
from herds import Scene, herd, summary
from redis_server import RedisServer
from rows import Row

THREADS = ("tiercache, threads", "bare threading.Event", "dogpile.cache")
TASKS = ("tiercache, tasks", "bare futures", "cashews")
SCENES = (
    (Scene("threads", 4, 250), 5),
    (Scene("tasks", 4, 250), 5),
    (Scene("threads", 16, 64), 3),
    (Scene("tasks", 16, 64), 3),
    (Scene("tasks", 1, 5000), 5),
    (Scene("tasks", 4, 12_500, keys=1000), 3),
)
SHORT = (SCENES[0], SCENES[1], SCENES[4])  # the scenes of the quick form
PEERS = {"dogpile.cache": "dogpile", "cashews": "cashews"}


@pytest.mark.parametrize(("scene", "turns"), SCENES, ids=str)
def test_herd(row: Row, scene: Scene, turns: int, redis_server: RedisServer, quick: bool) -> None:
    if quick and (scene, turns) not in SHORT:
        pytest.skip("not in the quick form")
    arms = [arm for arm in (THREADS if scene.colour == "threads" else TASKS) if installed(arm)]
    turns = 0 if quick else turns
    found = row.once(lambda: {arm: summary(each) for arm, each in take_turns(redis_server, arms, scene, turns).items()})
    for arm in arms:
        role = "ours" if arm.startswith("tiercache") else "yardstick" if arm.startswith("bare") else "peer"
        size: dict[str, Any] = {
            "scene": str(scene),
            "processes": scene.processes,
            "keys": scene.keys,
            "turns": max(turns, 1),
        }
        row.note("herd", f"{scene}: {arm}", role, f"{scene}: {arms[1]}", arm=arm, **size, **found[arm])
    if len(arms) < 3:
        pytest.skip("no peer is installed (extra bench)")


def installed(arm: str) -> bool:
    return arm not in PEERS or importlib.util.find_spec(PEERS[arm]) is not None


def take_turns(server: RedisServer, arms: list[str], scene: Scene, turns: int) -> dict[str, list[Any]]:
    """The herds of each arm: a monitored one, then the timed ones."""
    found: dict[str, list[Any]] = {arm: [] for arm in arms}
    for turn in range(turns + 1):
        for arm in arms:
            found[arm].append(herd(server, arm, scene, monitored=turn == 0))
    return found
