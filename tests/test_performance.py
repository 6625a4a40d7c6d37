"""The page of figures comes from its results, its commands are there, and the gate finds what is slower."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import gate
import peers
import report
from goals import GOALS
from hits import HITS
from results import Results

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SMALL = Results(
    "two-minute",
    "2026-01-02",
    {"processor": "Some Processor", "cores": 2, "system": "Linux"},
    {"CPython": "3.11.7"},
    [
        {"group": "hit", "name": "functools.lru_cache, one str", "role": "yardstick", "seconds": 4e-8},
        {"group": "hit", "name": "`get`", "role": "ours", "against": "functools.lru_cache, one str", "seconds": 3e-8},
        {
            **{"group": "hit", "name": "fast peer", "role": "peer", "against": "functools.lru_cache, one str"},
            **{"seconds": 2e-8, "note": "no ttl"},
        },
        {"group": "memory", "name": "tiercache", "role": "ours", "entries": 1_000_000, "bytes": 97.0, "pause": 0.05},
    ],
)


def page() -> str:
    return report.PAGE.read_text(encoding="utf-8")


def test_the_page_has_a_place_for_each_kind_of_figures() -> None:
    """Its marks are those that the writer fills, each once."""
    begins = re.findall(r"^<!-- figures: ([\w-]+) -->$", page(), re.M)
    assert sorted(begins) == sorted(report.BLOCKS)
    assert re.findall(r"^<!-- end of figures: ([\w-]+) -->$", page(), re.M) == begins


def test_the_figures_of_the_page_are_those_of_its_results() -> None:
    """Writing the page from the committed results changes nothing: nothing in it was typed."""
    assert report.written(page(), Results.load(report.FILE)) == page()


def test_the_results_are_of_this_suite() -> None:
    """They tell the kind of machine and no name of one, and each row has a group and a role."""
    results = Results.load(report.FILE)
    assert set(results.machine) == {"processor", "cores", "system"}
    assert {row["role"] for row in results.rows} <= {"ours", "yardstick", "peer"}
    assert {row["group"] for row in results.rows} >= {*report.TIMED, "herd", "waking", "memory", "growth"}


def test_the_writer_shows_what_it_is_given(tmp_path: Path) -> None:
    """Results survive a file, and the page made of them has their figures and, written again, stays as it is."""
    SMALL.save(tmp_path / "results.json")
    results = Results.load(tmp_path / "results.json")
    assert results == SMALL
    text = report.written(page(), results)
    assert "| **tiercache, `get`** | 30.0 ns | 0.75 of functools.lru_cache, one str |  |" in text
    assert "| fast peer | 20.0 ns | 0.50 of functools.lru_cache, one str | no ttl |" in text
    assert "- hit: fast peer (no ttl) needs 0.67 of what tiercache's `get` needs." in text
    assert "| `get`, a hit | at most 0.75 of functools.lru_cache | 0.75 \N{MULTIPLICATION SIGN} | yes |" in text
    assert "| 97 | **no** |" in text
    assert "| not measured | - |" in text
    assert report.written(text, results) == text


def test_every_goal_is_on_the_page() -> None:
    """With its measured value and whether it is met; only the short form may leave some out."""
    block = page().partition("<!-- figures: goals -->")[2].partition("<!-- end of")[0]
    rows = [row for row in block.splitlines() if row.startswith("| ")][1:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [goal.what for goal in GOALS]
    short = Results.load(report.FILE).form != "full"
    assert all(row.endswith(("| yes |", "| **no** |", "| - |") if short else ("| yes |", "| **no** |")) for row in rows)


def test_the_programs_of_the_page_run() -> None:
    """Each file that the page names is there, and run.py and gate.py know the options it shows."""
    for path in re.findall(r"benchmarks/\w+\.(?:py|json)", page()):
        assert (ROOT / path).is_file(), path
    for program, option in (("run.py", "--quick"), ("gate.py", "--write")):
        shown = subprocess.run([sys.executable, str(BENCHMARKS / program), "--help"], capture_output=True, text=True)
        assert option in shown.stdout, shown.stderr


def test_the_pictures_are_small() -> None:
    """Each picture that the page shows is an SVG of at most 100 kB."""
    shown = re.findall(r"\]\((pictures/\w+\.svg)\)", page())
    assert len(shown) == 3
    assert all((ROOT / "docs" / path).stat().st_size <= 100_000 for path in shown)


def test_each_peer_is_in_the_extra() -> None:
    """What is compared is installed by the extra `bench`, or with the package itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = {re.split("[>=<]", each)[0] for each in (*project["dependencies"], *extras["bench"], *extras["fast"])}
    assert set(peers.DISTRIBUTIONS) <= required


def test_the_gate_fails_above_its_tolerance() -> None:
    """5 % more than the committed ratio is too much, and so is a hit that is missing on either side."""
    assert gate.regressions({"get": 1.05, "new": 1.0}, {"get": 1.0, "new": 1.0}) == []
    assert gate.regressions({"get": 0.5}, {"get": 1.0}) == []
    (line,) = gate.regressions({"get": 1.06}, {"get": 1.0})
    assert line.startswith("get: 1.060 of its yardstick, +6.0%")
    assert len(gate.regressions({"new": 1.0}, {"old": 1.0})) == 2


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "instructions").glob("*.json")), ids=lambda path: path.stem)
def test_each_hit_has_a_committed_count(path: Path) -> None:
    """The gate's files know every hit, under its name."""
    assert set(json.loads(path.read_text(encoding="utf-8"))["ratios"]) == {hit.name for hit in HITS}
