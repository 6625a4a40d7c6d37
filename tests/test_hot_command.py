"""`tiercache hot`, on a real Redis."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from redis_server import RedisServer, free_port

from tiercache import Cache
from tiercache.blocking import run
from tiercache.cli import main
from tiercache.remote.commands import Names


def asked(cache: Cache, **hits: int) -> None:
    """Let the fleet be told of so many hits."""
    process = cache._process
    assert process.reports is not None
    cache.set_many(dict.fromkeys(hits, 1))
    for key, number in hits.items():
        for _ in range(number):
            assert cache.get(key) == 1
    run(process.reports.report(process.blocking()))


def test_a_table_is_shown_hottest_first(
    make_cache: Callable[..., Cache], redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Aligned, and what a terminal would obey written out."""
    cache = make_cache()
    asked(cache, **{"item:42": 2000, "b": 1000, "c\x1b[31m": 500, "d": 1})
    assert main(["hot", redis_server.url, "--namespace", cache.namespace, "-n", "3"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["hits/s", "share", "key"]
    assert [line.split()[1:] for line in lines] == [["57.1%", "item:42"], ["28.6%", "b"], ["14.3%", r"c\x1b[31m"]]
    assert len({line.index("%") for line in lines}) == 1
    rates = [float(line.split()[0].replace(",", "")) for line in lines]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(4 * rates[2], rel=0.01)


def test_json_has_what_hot_gives(
    make_cache: Callable[..., Cache], redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Key, rate and share."""
    cache = make_cache()
    asked(cache, a=30, b=10)
    assert main(["hot", redis_server.url, "--namespace", cache.namespace, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["key"]: each["share"] for each in found} == {"a": pytest.approx(0.75), "b": pytest.approx(0.25)}
    assert found[0]["rate"] == pytest.approx(3 * found[1]["rate"])


def test_nothing_told_is_exit_code_1(
    redis_server: RedisServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so; as JSON an empty list."""
    assert main(["hot", redis_server.url, "--namespace", namespace]) == 1
    assert capsys.readouterr().out == "nobody has told of any hit\n"
    assert main(["hot", redis_server.url, "--namespace", namespace, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


def test_watch_goes_on_until_it_is_interrupted(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """And ends well then."""
    cache = make_cache()
    asked(cache, a=30)
    command = [
        sys.executable,
        "-m",
        "tiercache.cli",
        "hot",
        redis_server.url,
        "--namespace",
        cache.namespace,
        "--watch",
    ]
    watching = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    for _ in range(2):
        assert json.loads(watching.stdout.readline())[0]["key"] == "a"
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=30)
    assert (watching.returncode, said) == (0, "")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://user:hunter2@127.0.0.1:{port}/0", "no Redis can be reached at redis://127.0.0.1:{port}/0"),
        ("http://user:hunter2@x/", "is not a Redis URL"),
    ],
)
def test_a_redis_that_can_not_be_asked_is_exit_code_2(url: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says why, without the password."""
    port = free_port()
    assert main(["hot", url.format(port=port)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said.format(port=port) in printed.err
    assert printed.err.count("\n") == 1
    assert "hunter2" not in printed.err


def test_what_is_foreign_is_exit_code_2(
    redis_server: RedisServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A type of somebody else's, and a script's reply that is none of ours."""
    with redis_server.client() as client:
        client.set(Names(namespace).popularity[0], "theirs")
    assert main(["hot", redis_server.url, "--namespace", namespace]) == 2
    assert "WRONGTYPE" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["-n", "0"], ["-n", "1001"], ["-n", "-5"], ["-n", "x"], []])
def test_bad_options_are_exit_code_2(
    options: list[str], redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of keys, and no URL."""
    with pytest.raises(SystemExit) as left:
        main(["hot", *([redis_server.url] if options else []), *options])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert ("1 to 1,000" if options else "URL") in said
    assert said.count("\n") == 1


def test_a_bad_namespace_is_exit_code_2(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The alphabet is told."""
    assert main(["hot", redis_server.url, "--namespace", "not one"]) == 2
    assert "namespace" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit codes."""
    with pytest.raises(SystemExit) as left:
        main(["hot", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "tiercache hot redis://localhost:6379/0" in text
    assert "Exit code" in text
