"""The noise-free gate: machine instructions of a hit beside its yardstick's, counted by valgrind's callgrind.

    python benchmarks/gate.py             fails if a ratio is more than 5 % above the committed one
    python benchmarks/gate.py --write     commits what it counts to benchmarks/instructions/

A count is the difference between a loop over the call and an empty loop. With a fixed hash seed and fixed addresses
two runs count the same, whatever else the machine does. The ratios belong to an interpreter and a compiler, so there
is a file for each version of Python. valgrind runs clock_gettime as a system call, whose instructions it does not
see: a hit's clock costs less here than it does.
"""

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hits import EMPTY, HITS, loop, names

TIMES = 1000
TOLERANCE = 0.05
INSTRUCTIONS = Path(__file__).parent / "instructions"
FILE = INSTRUCTIONS / f"{sys.version_info[0]}.{sys.version_info[1]}.json"
STATEMENTS = tuple(dict.fromkeys(statement for hit in HITS for statement in (hit.ours, hit.yardstick)))


def work() -> int:
    """What runs in valgrind: it writes a part of its profile at each os.getppid(), before and after each loop."""
    found = names()
    gc.disable()
    for statement in (EMPTY, *STATEMENTS):
        run = loop(statement, found)
        _run(run, 100)  # the interpreter adapts to a loop that it has seen
        os.getppid()
        _run(run, TIMES)
        os.getppid()
    return 0


def _run(run: Any, times: int) -> None:
    coroutine = run(times)
    if coroutine is not None:
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("a hit suspended")


def counted() -> dict[str, float]:
    """Instructions of each statement, without those of the loop around it."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "profile")
        valgrind = [*_fixed_addresses(), "valgrind", "--tool=callgrind", "--dump-before=getppid", "--combine-dumps=yes"]
        command = [*valgrind, f"--callgrind-out-file={profile}", sys.executable, __file__, "--work"]
        environment = {"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"callgrind failed:\n{done.stderr}")
        parts = [int(total) for total in re.findall(r"^totals: (\d+)$", profile.read_text(), re.M)]
    empty, *loops = parts[1::2]
    return {what: (each - empty) / TIMES for what, each in zip(STATEMENTS, loops, strict=True)}


def _fixed_addresses() -> list[str]:
    """The prefix of a command whose memory is to lie where it lay last time, where that may be asked for."""
    setarch = ["setarch", "-R"]
    allowed = shutil.which("setarch") and subprocess.run([*setarch, "true"], capture_output=True).returncode == 0
    return setarch if allowed else []


def ratios(counts: dict[str, float]) -> dict[str, float]:
    """Each hit's instructions as a part of its yardstick's."""
    return {hit.name: round(counts[hit.ours] / counts[hit.yardstick], 4) for hit in HITS}


def regressions(found: dict[str, float], committed: dict[str, float]) -> list[str]:
    """What is wrong with the ratios found, a line each."""
    wrong = [f"{name}: there is no committed ratio" for name in found if name not in committed]
    for name, ratio in committed.items():
        if name not in found:
            wrong.append(f"{name}: is not measured any more")
        elif found[name] > ratio * (1 + TOLERANCE):
            wrong.append(f"{name}: {found[name]:.3f} of its yardstick, {found[name] / ratio - 1:+.1%} over {ratio:.3f}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="commit what is counted")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work()
    if shutil.which("valgrind") is None:
        print("SKIPPED: the gate needs valgrind (apt-get install valgrind)")
        return 0
    counts = counted()
    found = ratios(counts)
    for hit in HITS:
        print(f"{hit.name:<28}{counts[hit.ours]:>8.0f} / {counts[hit.yardstick]:.0f} = {found[hit.name]:.3f}")
    python = f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    if arguments.write:
        FILE.write_text(json.dumps({"python": python, "ratios": found}, indent=2) + "\n", encoding="utf-8")
        return 0
    if not FILE.exists():
        print(f"SKIPPED: no ratios are committed for this version of Python; {sys.argv[0]} --write does it")
        return 0
    committed = json.loads(FILE.read_text(encoding="utf-8"))
    wrong = regressions(found, committed["ratios"])
    if wrong:
        print(*wrong, sep="\n")
        print(f"Counted with {python}; committed with {committed['python']}: {sys.argv[0]} --write, if it is meant.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
