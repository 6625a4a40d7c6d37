"""The simulator: many seeds in which nothing goes wrong, and proof that it would notice."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sim.history import history
from sim.run import Run, described, shrink

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent)}


def simulate(*options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(HERE / "simulate.py"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def test_no_history_breaks_a_promise(amount: Any, record_property: Any) -> None:
    """S1 to S13 after each step and L1 to L6 at the end, in every history; each on as many cores as there are."""
    cores = os.cpu_count() or 1
    share = amount(20_000, 300_000) // cores
    running = [simulate("--seeds", str(share), "--first", str(share * core)) for core in range(cores)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * cores, "\n".join(said)
    rates = [re.search(r"(\d+) histories in .* (\d+) a second, 0 failed$", text.strip()) for text in said]
    assert sum(int(rate[1]) for rate in rates if rate) == share * cores
    record_property("histories", share * cores)
    record_property("histories a second and core", min(int(rate[2]) for rate in rates if rate))


def test_a_seed_is_a_history() -> None:
    """The same seed gives the same events in the same order."""
    for seed in range(40):
        assert described(history(seed)) == described(history(seed))


def test_the_histories_meet_everything() -> None:
    """Every kind of history and fault, and every way in which a call can go, is met within 3,000 seeds."""
    met: Counter[str] = Counter()
    for seed in range(3000):
        found = history(seed)
        met[found.kind] += 1
        met.update(act.what for act in found.acts)
        run = Run(found)
        assert run.run() == []
        for member in run.members:
            met.update({name: n for name, n in member.cache.stats().items() if n})
        met["interrupted"] += any(act.what == "call" and act.args[3].ends == "interrupt" for act in found.acts)
    rare = {
        "bypass_loop",
        "undecodable",
        "evictions",
        "refreshes_skipped",
        "soft_timeouts_skipped",
        "dead_wakers",
        "bytes",
        "unreported",
    }
    workers = {name for name in run.members[0].cache.stats() if name.startswith("jobs_")}  # there are none here
    wanted = {
        "good", "chaos", "lasting", "down", "crash", "call", "invalidate", "write", "join", "fork", "pause",
        "cut_inbox", "cut_off", "lose", "slow", "evict", "restart_redis", "script_flush", "fill_up", "interrupted",
    } | (set(run.members[0].cache.stats()) - rare - workers)  # fmt: skip
    assert not {name for name in wanted if not met[name]}


def test_a_failing_history_is_shortened() -> None:
    """Without the fence in tier 1 a history fails; what is left of it still does, and every act in it is needed."""
    from tiercache.port import Node

    fence = Node.cut
    Node.cut = lambda self, key, *args, **kwargs: None  # type: ignore[method-assign]
    try:
        seed = next(seed for seed in range(1000) if Run(history(seed)).run())
        short = shrink(history(seed))
        assert Run(short).run()
        assert len(short.acts) < len(history(seed).acts)
        for at in range(len(short.acts)):
            assert not Run(short._replace(acts=short.acts[:at] + short.acts[at + 1 :])).run()
        text = described(short)
    finally:
        Node.cut = fence  # type: ignore[method-assign]
    assert "violations:\n" in text
    assert f"seed {seed}" in text


def test_one_command_replays() -> None:
    """`--seed` prints what happened and says by its exit code whether that was right."""
    process = simulate("--seed", "7")
    said = process.communicate()[0]
    assert process.returncode == 0
    assert "acts:" in said
    assert "what happened:" in said
