"""The typed face: what mypy and pyright say about a user's program."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
PROGRAM, ERRORS = HERE / "typed_program.py", HERE / "typed_errors.py"
ENVIRONMENT = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}

Report = dict[int, list[str]]  # line -> what is said about it


def marked() -> set[int]:
    return {at for at, line in enumerate(ERRORS.read_text().splitlines(), 1) if line.endswith("# error")}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def mypy() -> dict[str, Report]:
    """What `mypy --strict` reports of both programs."""
    pytest.importorskip("mypy")
    done = run(
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--hide-error-context",
        str(PROGRAM), str(ERRORS),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    reports: dict[str, Report] = {}
    for line in done.stdout.splitlines():
        match = re.match(r"(.+?):(\d+): error: (.+)", line)
        if match:
            reports.setdefault(Path(match[1]).name, {}).setdefault(int(match[2]), []).append(match[3])
    return reports


@pytest.fixture(scope="module")
def pyright() -> dict[str, Report]:
    """What pyright reports of both programs, in its standard mode."""
    pytest.importorskip("pyright")
    if shutil.which("node") is None:
        pytest.skip("pyright needs node on PATH")
    programs = (str(PROGRAM), str(ERRORS))
    done = run(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *programs)
    try:
        output = json.loads(done.stdout)
    except ValueError:
        pytest.skip(f"pyright's own program is not here and can't be fetched: {done.stderr.strip()[-200:]}")
    assert output["summary"]["filesAnalyzed"] == 2, done.stderr
    reports: dict[str, Report] = {}
    for said in output["generalDiagnostics"]:
        if said["severity"] == "error":
            line = said["range"]["start"]["line"] + 1
            reports.setdefault(Path(said["file"]).name, {}).setdefault(line, []).append(said["message"])
    return reports


def test_the_program_runs() -> None:
    """What is type-checked is a program that works."""
    done = run(sys.executable, "-W", "error", str(PROGRAM))
    assert done.returncode == 0, done.stderr


def test_the_program_is_clean_under_mypy(mypy: dict[str, Report]) -> None:
    """Strict mypy agrees with every assert_type and finds no error."""
    assert mypy.get(PROGRAM.name, {}) == {}


def test_the_program_is_clean_under_pyright(pyright: dict[str, Report]) -> None:
    """So does pyright."""
    assert pyright.get(PROGRAM.name, {}) == {}


def test_mypy_reports_every_deliberate_error(mypy: dict[str, Report]) -> None:
    """Each marked line is an error, and no other line."""
    reported = mypy.get(ERRORS.name, {})
    assert reported.keys() == marked(), reported


def test_pyright_reports_every_deliberate_error(pyright: dict[str, Report]) -> None:
    """Each marked line is an error, and no other line."""
    reported = pyright.get(ERRORS.name, {})
    assert reported.keys() == marked(), reported


def test_the_package_says_that_it_is_typed() -> None:
    """py.typed is there, and a .pyi beside each compiled module."""
    package = ROOT / "tiercache"
    assert (package / "py.typed").exists()
    for module in (package / "local").glob("*.pyx"):
        assert module.with_suffix(".pyi").exists(), module.name
