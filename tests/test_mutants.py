"""Each protection is taken out of a copy of the package, and what should notice it does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mutants_lua
import pytest
from mutants import MUTANTS, Mutant

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SEEDS = 30_000
SIMULATED = [each for each in MUTANTS if each.caught_by == "simulator"]
LUA = [each._replace(file=f"remote/scripts/{each.file}") for each in mutants_lua.MUTANTS]
TESTED = [each for each in MUTANTS if each.caught_by != "simulator"] + LUA
LISTED = {  # of the scripts: those that protocol.md names; the rest are tried in the long form
    "waiter registered after BUSY instead of in it",
    "commit without the compare of the token",
    "commit without the compare of the attempt",
    "commit that is not idempotent",
    "invalidate that leaves the lease",
}


def mutated(mutant: Mutant, place: Path) -> dict[str, str]:
    """Make a package without the protection; the environment in which Python finds it."""
    shutil.copytree(ROOT / "tiercache", place / "tiercache", ignore=shutil.ignore_patterns("__pycache__", "*.c"))
    for name, old, new in filter(None, ((mutant.file, mutant.old, mutant.new), mutant.also)):
        file = place / "tiercache" / name
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, "what is to be taken out does not stand there, or more than once"
        file.write_text(text.replace(old, new), encoding="utf-8")
    if mutant.file.endswith((".pyx", ".pxd")):
        shutil.copy(ROOT / "setup.py", place)
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel", str(os.cpu_count())]
        build += ["--force"] * mutant.file.endswith(".pxd")  # several modules have what stands there
        subprocess.run(build, cwd=place, check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(place)}


def simulate(environment: dict[str, str], place: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TESTS / "simulate.py"), *options]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("mutant", SIMULATED, ids=lambda each: each.name)
def test_the_simulator_notices(mutant: Mutant, tmp_path: Path) -> None:
    """The seed that noticed it last time, else any of many."""
    environment = mutated(mutant, tmp_path)
    ran = simulate(environment, tmp_path, "--first", str(mutant.seed), "--seeds", "1")
    if ran.returncode == 0:
        ran = simulate(environment, tmp_path, "--seeds", str(SEEDS))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "replay:" in ran.stdout, ran.stdout + ran.stderr
    assert mutant.says in ran.stdout, ran.stdout


@pytest.mark.parametrize("mutant", TESTED, ids=lambda each: each.name)
def test_a_test_notices(mutant: Any, tmp_path: Path, amount: Any) -> None:
    if mutant in LUA and mutant.name not in LISTED and amount(True, False):
        pytest.skip("in the long form")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command += ["-c", str(ROOT / "pyproject.toml"), "--hypothesis-profile", "mutants", str(ROOT / mutant.caught_by)]
    ran = subprocess.run(command, cwd=tmp_path, env=mutated(mutant, tmp_path), capture_output=True, text=True)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "FAILED" in ran.stdout, ran.stdout + ran.stderr


def test_the_lists_are_long_enough() -> None:
    """All of protocol.md's, and more than ten of our own; each once."""
    names = [each.name for each in MUTANTS + LUA]
    assert len(names) == len(set(names))
    assert set(names) >= LISTED
    assert len(names) >= 19 + 10
