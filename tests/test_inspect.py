"""`tiercache inspect` and `tiercache invalidate`, on a real Redis."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from redis_server import RedisServer, free_port
from test_flow import Gate, in_thread, until

from tiercache import Cache, Policy
from tiercache.cli import main
from tiercache.remote.commands import Names


@dataclass
class Item:
    name: str


@pytest.fixture
def inspect(redis_server: RedisServer, namespace: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs `inspect --json`; what it says, with its exit code."""

    def run(key: str, *options: str) -> Any:
        code = main(["inspect", redis_server.url, key, "--namespace", namespace, "--json", *options])
        said = capsys.readouterr()
        assert said.err == ""
        return json.loads(said.out) | {"code": code}

    return run


def test_a_record_is_shown_by_its_header(
    make_cache: Callable[..., Cache], inspect: Any, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes, codec, lifetimes and age; never the value."""
    cache = make_cache(compress="zlib", compress_above=10, sign_with=b"0123456789abcdef")
    cache.set("item:42", "secret" * 100, ttl=100, stale_if_error=50)
    found = inspect("item:42")
    record = found["record"]
    assert found["code"] == 0
    assert (record["kind"], record["codec"], record["compression"], record["signed"]) == (
        "value",
        "msgpack",
        "zlib",
        True,
    )
    assert (record["fresh"], record["hard"], record["soft_invalid"]) == (100.0, 150.0, False)
    assert 90 < record["fresh_left"] <= 100
    assert record["remaining"] + record["age"] == pytest.approx(150)
    assert record["bytes"] == record["payload_bytes"] + 38
    assert record["id"] == cache.table.peek("item:42").id.hex()  # type: ignore[union-attr]
    assert "secret" not in json.dumps(found)
    assert (found["lease"], found["failure"]) == (None, None)
    cache.invalidate("item:42", keep_stale=True)
    assert inspect("item:42")["record"]["soft_invalid"] is True
    main(["inspect", redis_server.url, "item:42", "--namespace", cache.namespace])
    text = capsys.readouterr().out
    assert "soft invalid      True" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("value", "shown"), [({"a": (1, 2)}, "{'a': (1, 2)}"), (None, "None"), (Item("x"), "no class is registered here")]
)
def test_the_value_is_shown_on_request(make_cache: Callable[..., Cache], inspect: Any, value: Any, shown: str) -> None:
    """Decoded; what belongs to a registered class can't be."""
    cache = make_cache()
    cache.register(Item, name="Item")
    cache.set("k", value)
    assert shown in inspect("k", "--value")["record"]["value"]


def test_a_lease_and_who_waits_are_shown(make_cache: Callable[..., Cache], inspect: Any) -> None:
    """While a load runs."""
    holder, other, gate = make_cache(), make_cache(), Gate()
    first = in_thread(lambda: holder.get_or_load("k", gate))
    assert gate.running.wait(20)
    second = in_thread(lambda: other.get_or_load("k", gate))
    until(lambda: other.stats()["waits"] == 1)
    lease = inspect("k")["lease"]
    assert (lease["attempt"], len(lease["holder"])) == ("1", 16)
    assert 0 < lease["left"] <= 3
    assert lease["waiting_processes"] == [other._process._redis.process.hex()]  # type: ignore[union-attr]
    gate.go.set()
    assert (first(), second()) == (1, 1)
    assert inspect("k")["lease"] is None


def test_a_failure_and_its_pause_are_shown(make_cache: Callable[..., Cache], inspect: Any) -> None:
    """What other processes are told in the cooldown."""

    def load() -> Any:
        raise OSError("the database\x1b[31m is away")

    with pytest.raises(OSError, match="away"):
        make_cache(policy=Policy(error_backoff=30, error_backoff_max=30)).get_or_load("k", load)
    failure = inspect("k")["failure"]
    assert (failure["reason"], failure["type"], failure["count"]) == ("failed", "OSError", "1")
    assert 0 < failure["cooldown_left"] <= 30


def test_what_a_terminal_would_obey_is_written_out(
    make_cache: Callable[..., Cache], redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts in Redis are anybody's."""
    cache = make_cache(policy=Policy(error_backoff=30, error_backoff_max=30))
    with pytest.raises(OSError, match="31m"):
        cache.get_or_load("k\n", lambda: (_ for _ in ()).throw(OSError("\x1b[31m")))
    main(["inspect", redis_server.url, "k\n", "--namespace", cache.namespace])
    text = capsys.readouterr().out
    assert r"\x1b[31m" in text
    assert "\x1b" not in text


def test_nothing_under_the_key_is_exit_code_1(inspect: Any) -> None:
    """And says so."""
    found = inspect("absent")
    assert (found["code"], found["record"], found["lease"], found["failure"]) == (1, None, None, None)


@pytest.mark.parametrize("key", ["x" * 300, "#x"])
def test_keys_are_given_as_the_program_writes_them(make_cache: Callable[..., Cache], inspect: Any, key: str) -> None:
    """Their digest is found."""
    make_cache().set(key, 1)
    assert inspect(key)["record"]["kind"] == "value"


@pytest.mark.parametrize("foreign", ["list", "text", "short"])
def test_what_is_foreign_is_said_to_be(inspect: Any, redis_server: RedisServer, namespace: str, foreign: str) -> None:
    """A type or a text that is not ours is no crash."""
    names = Names(namespace)
    with redis.Redis.from_url(redis_server.url) as client:
        if foreign == "list":
            for name in (names.value("k"), names.lease("k"), names.failure("k")):
                client.rpush(name, 1)
        else:
            client.set(names.value("k"), "hello" if foreign == "text" else b"tc\1" + bytes(60))
        found = inspect("k", "--value")
        client.delete(names.value("k"), names.lease("k"), names.failure("k"))
    assert "fault" in found["record"]
    if foreign == "list":
        assert "fault" in found["lease"]
        assert "fault" in found["failure"]


@pytest.mark.parametrize("soft", [False, True])
def test_invalidate_reaches_every_process(
    make_cache: Callable[..., Cache], redis_server: RedisServer, capsys: pytest.CaptureFixture[str], soft: bool
) -> None:
    """As a program's own does, for long keys too."""
    one, other = make_cache(), make_cache()
    one.set_many({"k": 1, "x" * 300: 2})
    assert (other.get("k"), other.get("x" * 300)) == (1, 2)
    options = ["--keep-stale"] if soft else []
    assert main(["invalidate", redis_server.url, "k", "x" * 300, "--namespace", one.namespace, *options]) == 0
    assert "invalidated 2 keys" in capsys.readouterr().out
    for cache in (one, other):
        until(lambda cache=cache: cache.get("k") is None and cache.get("x" * 300) is None)  # type: ignore[misc]
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.exists(Names(one.namespace).value("k")) == soft


def test_a_running_load_can_not_store_its_value_after_it(
    make_cache: Callable[..., Cache], redis_server: RedisServer
) -> None:
    """The same script ends its lease."""
    cache, gate = make_cache(), Gate("old")
    call = in_thread(lambda: cache.get_or_load("k", gate))
    assert gate.running.wait(20)
    assert main(["invalidate", redis_server.url, "k", "--namespace", cache.namespace]) == 0
    gate.go.set()
    assert call() == "old"
    assert cache.get("k") is None


@pytest.mark.parametrize("command", ["inspect", "invalidate"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://user:hunter2@127.0.0.1:{port}/0", "no Redis can be reached at redis://127.0.0.1:{port}/0"),
        ("http://user:hunter2@x/", "is not a Redis URL"),
        ("redis://:hunter2@127.0.0.1:{port}x/", "is not a Redis URL"),
    ],
)
def test_a_redis_that_can_not_be_asked_is_exit_code_2(
    command: str, url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says why, without the password."""
    port = free_port()
    assert main([command, url.format(port=port), "k"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said.format(port=port) in printed.err
    assert printed.err.count("\n") == 1
    assert "hunter2" not in printed.err


@pytest.mark.parametrize("command", ["inspect", "invalidate"])
@pytest.mark.parametrize(("key", "namespace"), [("", "ok"), ("k", "not a namespace")])
def test_bad_names_are_exit_code_2(
    command: str, key: str, namespace: str, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is changed."""
    assert main([command, redis_server.url, key, "--namespace", namespace]) == 2
    assert "key" in (said := capsys.readouterr().err) or "namespace" in said


@pytest.mark.parametrize("command", ["inspect", "invalidate"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit codes."""
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"tiercache {command} redis://localhost:6379/0" in text
    assert "Exit code" in text
