"""`tiercache demo popular`: a hot key's ends pass without a waiting caller, and nothing of it is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer
from test_demo import DEADLINE, SOURCE, never, refused, start_demo, until_no_process

from tiercache.cli import expiries, main
from tiercache.cli.journal import Journal, Span
from tiercache.cli.popular import ARMS, Course, Plan, run_arms


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """One run of `tiercache demo popular --quick --json --plot`: its result, its picture, what was seen meanwhile."""
    folder = tmp_path_factory.mktemp("q")
    temporary, picture = folder / "t", folder / "ends.png"
    temporary.mkdir()
    process = start_demo(temporary, "popular", "--quick", "--json", "--plot", str(picture))
    out, err = process.communicate(timeout=2 * DEADLINE)
    assert process.returncode == 0, err
    until_no_process(process.pid)
    assert list(temporary.iterdir()) == []
    return json.loads(out), picture, err


def test_refresh_ahead_keeps_nobody_waiting(quick: tuple[dict[str, Any], Path, str]) -> None:
    """Several values end, each is renewed in time, and no caller waits for a loader."""
    found = quick[0]["arms"]["ahead"]
    assert (found["waited"], found["waited_for"]) == (0, 0)
    assert found["renewals"] >= 2


def test_without_early_refresh_every_end_keeps_callers_waiting(quick: tuple[dict[str, Any], Path, str]) -> None:
    """The first caller of each value loads it, and the others wait for that."""
    found = quick[0]["arms"]["none"]
    assert found["waited_for"] == found["renewals"] >= 2
    assert found["waited"] > found["renewals"]


def test_nothing_is_bypassed_and_nobody_fails(quick: tuple[dict[str, Any], Path, str]) -> None:
    """All arms are of the good case."""
    assert list(quick[0]["arms"]) == list(ARMS)
    for found in quick[0]["arms"].values():
        assert found["errors"] == []
        assert found["bypasses"]
        assert not any(found["bypasses"].values())
        assert found["calls"] > 100


def test_it_is_seen_while_it_runs_and_drawn_at_the_end(quick: tuple[dict[str, Any], Path, str]) -> None:
    """A line now and then with all arms, the table at the end, a PNG and nothing beside it."""
    _, picture, err = quick
    seen = [line for line in err.splitlines() if "longest wait" in line]
    assert len(seen) >= 2
    for title, _ in ARMS.values():
        assert all(title in line for line in seen)
        assert err.count(title) > len(seen)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in picture.parent.iterdir()) == ["ends.png", "t"]


def test_a_given_redis_keeps_its_keys_and_none_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --url nothing is flushed, and every key of the run is removed."""
    short = {"processes": 1, "ttl": 60.0, "load": 0.01, "seconds": 0.5}
    monkeypatch.setattr("tiercache.cli.popular.QUICK", short)
    monkeypatch.setattr("tiercache.cli.expiries.shortcomings", lambda courses: [])  # nothing ends in so short a time
    with RedisServer() as running, running.client() as client:
        client.set("somebody's", "value")
        assert main(["demo", "popular", "--quick", "--url", running.tcp_url]) == 0
        assert client.keys("*") == [b"somebody's"]
    assert "refresh ahead" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--processes", "--callers"])
def test_what_is_for_the_herd_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says so."""
    assert "are for the herd" in refused(capsys, "popular", option, "2")


def test_an_unknown_scene_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names those that there are."""
    line = refused(capsys, "unpopular")
    assert "'unpopular'" in line
    assert "popular" in line.partition("choose from")[2]


def test_a_process_that_dies_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the arm and the reason."""
    monkeypatch.setattr("tiercache.cli.popular.QUICK", {"ttl": -1.0})
    line = refused(capsys, "popular", "--quick")
    assert line.startswith("tiercache demo: a process of arm none ended with code 1: ")
    assert "ttl=-1.0" in line


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C, as a terminal sends it, in the midst: no process, socket or file."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    process = start_demo(temporary, "popular")
    try:
        assert process.stderr is not None
        assert any("longest wait" in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out) == (130, "")
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("tiercache demo: interrupted")
        until_no_process(process.pid)
        assert list(temporary.iterdir()) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_process_leaves_with_the_demo(redis_server: RedisServer, tmp_path: Path) -> None:
    """A demo that is killed takes its callers with it: the end of stdin ends the process."""
    job = Plan(redis_server.url, os.urandom(6).hex(), tmp_path, ttl=60).job("none", 0)
    process = subprocess.Popen(
        [sys.executable, "-c", "from tiercache.cli import asking; asking.main()"],
        stdin=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": SOURCE},
    )
    process.communicate(json.dumps(job) + "\n", timeout=DEADLINE)
    assert process.returncode == 1


def test_calls_and_loads_are_those_of_the_processes(redis_server: RedisServer, tmp_path: Path) -> None:
    """What the journal holds is what the caches have counted."""
    plan = Plan(redis_server.url, os.urandom(6).hex(), tmp_path, 2, 2, ttl=0.5, load=0.1, seconds=2.0)
    courses = run_arms(plan, lambda seconds, seen: None, never)
    assert [course.arm for course in courses] == list(ARMS)
    for course in courses:
        assert course.stats["loads"] == len(course.loads)
        assert all(span.end is not None and span.end >= course.begin for span in course.calls)
        assert set(course.waited) <= set(course.calls)


def test_figures_tell_who_waited_for_what() -> None:
    """A load counts as waited for if a caller was answered between its end and that of the next."""
    loads = [Span(0.0, 1.0), Span(4.0, 5.0), Span(8.0, 9.0), Span(12.0, None)]
    waited = [Span(8.1, 9.01), Span(8.5, 9.02)]
    calls = [Span(float(second), second + 0.001) for second in range(1, 8)] + waited
    bypasses = {"bypass_loop": 0, "hits_local": 7}
    course = Course("ahead", 1.0, 13.0, calls, waited, loads, [], bypasses)
    found = expiries.figures(course)
    assert (found.calls, found.renewals, found.waited_for, found.waited) == (9, 3, 1, 2)
    assert found.longest_ms == pytest.approx(910)
    assert found.bypasses == {"bypass_loop": 0}


def test_a_caller_who_waited_is_a_failure_of_refresh_ahead_alone() -> None:
    """It is said for that arm; errors are said for each."""
    rest: Any = ([Span(1.0, 2.0)], [Span(1.0, 2.0)], [Span(1.0, 2.0)])
    courses = [Course(arm, 0.5, 3.0, *rest, ["OSError: no"] if arm == "xfetch" else [], {}) for arm in ARMS]
    assert expiries.shortcomings(courses) == [
        "XFetch, the default: a caller got OSError: no",
        "refresh ahead kept 1 callers waiting",
    ]
    idle = Course("ahead", 0.5, 3.0, [], [], [], [], {})
    assert expiries.shortcomings([idle]) == ["refresh ahead renewed nothing"]


def test_the_longest_wait_is_seen_at_once(tmp_path: Path) -> None:
    """Also while other callers have no answer yet."""
    with Journal(tmp_path / "j", 1, 3) as journal:
        section = journal.sections[0]
        assert section.longest == 0
        section.asked(0)
        section.asked(1)
        asked = section.callers()[0].begin
        section.answer(0, asked + 5)
        assert section.longest == pytest.approx(5)
