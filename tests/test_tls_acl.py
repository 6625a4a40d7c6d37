"""The Redis user of docs/security.md, and TLS: all works with them, nothing more is allowed, faults are said."""

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from both import FACES
from redis_server import PATIENT, RedisServer, ServerError, free_port
from tier2 import servers

from tiercache import Cache, Policy, RemoteUnavailable
from tiercache.blocking import run
from tiercache.remote.address import Address
from tiercache.remote.links import Link
from tiercache.remote.popularity import Reports
from tiercache.remote.resp import Refusal, pack

# Python's ssl leaves a socket to the collector whose peer is gone before its handshake begins.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")

SECRET = "hunter2-s3cret"
PAGE = Path(__file__).parent.parent / "docs" / "security.md"
LINE = re.search(r"^ACL SETUSER shop .*$", PAGE.read_text(encoding="utf-8"), re.M)
assert LINE is not None
RIGHTS = sorted(word[1:] for word in LINE[0].split() if word.startswith("+"))
DENIED = re.compile(
    r"NOPERM|ACL failure in script|can't run this command|no permissions|can't access|can't publish|can't subscribe"
)


def until(done: Callable[[], Any]) -> Any:
    """What `done` gives once it is true; it is asked until then."""
    end = time.monotonic() + 60
    while not (result := done()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
    return result


# The least rights.


@pytest.fixture(scope="module", params=servers())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server with the documented user of the namespace `shop`."""
    with RedisServer(executable=request.param) as server:
        yield server


@pytest.fixture
def shop(server: RedisServer) -> Callable[..., str]:
    """The URL of the documented user, with changes to its rules."""

    def url(*changes: str) -> str:
        assert LINE is not None
        words = LINE[0].replace("PASSWORD", SECRET).split()
        with server.client() as client:
            client.flushall()
            client.execute_command("ACL", "DELUSER", "shop")
            client.execute_command(*words, *changes)
            client.execute_command("ACL", "LOG", "RESET")
            client.script_flush()
        return f"redis://shop:{SECRET}@127.0.0.1:{server.port}/0"

    return url


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def make_face(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Iterator[Callable[..., Any]]:
    faces = []

    def make(url: str, **settings: Any) -> Any:
        faces.append(request.param(make_cache(url, **{"namespace": "shop", **PATIENT, **settings})))
        return faces[-1]

    yield make
    for face in faces:
        face.close()


def fails() -> None:
    raise OSError("down")


def use(cache: Any) -> list[str]:
    """Every operation, with values small and large; what was said to be wrong. Callers get their values always."""
    said = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except RemoteUnavailable as error:
            said.append(str(error))

    large = os.urandom(10_000)
    attempt(cache.ping)
    attempt(lambda: cache.set_many({"a": 1, "large": large}))
    assert cache.get("a") in (1, None)
    assert set(cache.get_many(["a", "large", "none"])) <= {"a", "large"}
    for key, value in (("b", 2), ("large b", large), ("none", None)):
        assert cache.get_or_load(key, cache.loader(lambda: value)) == value  # noqa: B023  # called at once
        assert cache.refresh(key, cache.loader(lambda: value)) == value  # noqa: B023
    attempt(lambda: cache.invalidate("a", keep_stale=True))
    attempt(lambda: cache.invalidate("b", "large b", "none"))
    for key in ("fails", "fails too"):
        with pytest.raises(OSError, match="down"):
            cache.get_or_load(key, cache.loader(fails))
        attempt(lambda: cache.invalidate(key))  # noqa: B023
    assert cache.get_or_load("hit", cache.loader(lambda: 1)) == 1
    process = cache.cache._process
    for half_life in (30.0, 60.0):
        reports = Reports(process.node, process._redis, half_life)
        assert cache.get("hit") == 1
        run(reports.report(process.blocking()))
    attempt(lambda: cache.hot(fleet=True))
    return said


def refused(server: RedisServer) -> list[str]:
    """What Redis logged as denied, but for redis-py's telling its version."""
    with server.client() as client:
        entries = client.execute_command("ACL", "LOG")
    return [entry[b"object"].decode() for entry in entries if b"client" not in entry[b"object"]]


def test_the_documented_user_can_do_everything(
    make_face: Any, shop: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is refused, bypassed or logged, here or in Redis, the idle inbox included; others hear of changes."""
    url = shop()
    cache, other = make_face(url), make_face(url, policy=Policy(local_ttl=1e-6))
    other.ping()
    with caplog.at_level(logging.DEBUG, "tiercache"):
        assert use(cache) == []
        cache.set("k", 1)
        assert other.get("k") == 1
        oversized = make_face(url, max_value_bytes=1_000)
        cache.set("k", os.urandom(300_000))
        assert oversized.get("k") is None
        with server.client() as client:
            pings = client.info("commandstats")["cmdstat_ping"]["calls"]
            until(lambda: client.info("commandstats")["cmdstat_ping"]["calls"] >= pings + 3)
    stats = cache.stats()
    assert [name for name, count in stats.items() if name.startswith("bypass") and count] == []
    assert (stats["undecodable"], stats["unread"], stats["leases_lost"], stats["breaker_opened"]) == (0, 0, 0, 0)
    assert stats["epochs"] == 1
    assert not [text for text in caplog.messages if "large" not in text and "'k'" not in text]
    assert refused(server) == []


@pytest.mark.parametrize("right", [right for right in RIGHTS if right != "ping"])
def test_each_right_is_needed_and_reported(
    make_face: Any, shop: Any, server: RedisServer, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it a call or the log says what is wrong; no caller is left without its value."""
    cache = make_face(shop(f"-{right}"), policy=Policy(lease=0.2))  # what can't be given back is waited for
    with caplog.at_level(logging.WARNING, "tiercache"):
        said = use(cache)
    told = [text for text in said + caplog.messages if DENIED.search(text)]
    assert told, (said, caplog.messages)
    if right not in ("setrange", "rename", "hincrby", "time") and not right.startswith("z"):
        with pytest.raises(RemoteUnavailable, match=DENIED):
            cache.ping()
    assert SECRET not in caplog.text + "".join(said)
    assert cache.stats()["breaker_opened"] == 0
    assert any(right in text for text in refused(server))


@pytest.mark.parametrize("rule", ["resetkeys", "resetchannels", "~tc1:{other:*", "&tc1:iv:shop", "&tc1:in:*"])
def test_each_pattern_is_needed_and_reported(make_face: Any, shop: Any, rule: str) -> None:
    """Keys, invalidations and inboxes: `ping` tells which are closed."""
    first = {"~": "resetkeys", "&": "resetchannels"}.get(rule[0], rule)
    cache = make_face(shop(first, *([rule] if rule != first else [])))
    with pytest.raises(RemoteUnavailable, match=DENIED):
        cache.ping()
    assert cache.get_or_load("k", cache.loader(lambda: 1)) == 1


def test_without_ping_all_works_and_redis_logs_it(make_face: Any, shop: Any, server: RedisServer) -> None:
    """The one right that is there for the sake of Redis's own log."""
    cache = make_face(shop("-ping"))
    assert use(cache) == []
    until(lambda: "ping" in refused(server))
    assert cache.stats()["epochs"] == 1


class Asked:
    """A connection of one user: the raw reply to a command."""

    def __init__(self, url: str) -> None:
        self._link = Link(Address(url, None), 5)

    def __call__(self, *words: bytes | str | int) -> Any:
        self._link.send(pack(*words), 5)
        return self._link.receive(time.monotonic() + 30)[0]

    def close(self) -> None:
        self._link.close()


@pytest.fixture
def asked(server: RedisServer, shop: Any) -> Iterator[tuple[Asked, Asked]]:
    """As the documented user, and as the one who may do everything."""
    both = Asked(shop()), Asked(server.tcp_url)
    yield both
    for each in both:
        each.close()


def commands(reply: Any) -> Iterator[tuple[str, int]]:
    """Name (container and subcommand) and least number of words of each command that needs a right."""
    for name, arity, flags, *rest in reply:
        subcommands = rest[6] if len(rest) > 6 else []
        if subcommands:
            yield from commands(subcommands)
        elif b"no_auth" not in flags and b"no-auth" not in flags:
            yield name.decode().lower(), abs(arity)


def test_every_other_command_is_denied(asked: tuple[Asked, Asked], record_property: Any) -> None:
    """All that this server knows, sent as the user, and again from within a script."""
    user, admin = asked
    others = [(name, words) for name, words in commands(admin("COMMAND")) if name not in RIGHTS]
    for name in ("keys", "flushall", "scan", "monitor", "psubscribe", "migrate", "dump", "restore", "unlink", "mget"):
        assert name in dict(others)
    assert any(name.startswith("config") for name, _ in others)
    for name, least in others:
        words = name.split("|")
        words += ["x"] * (least - len(words))
        reply = user(*words)
        assert isinstance(reply, Refusal), name
        assert DENIED.search(str(reply)) or "command not allowed" in str(reply), (name, reply)  # DEBUG and MODULE
        reply = user("EVAL", "return redis.pcall(unpack(ARGV))", 0, *words)
        assert isinstance(reply, Refusal), name
        # Some are never allowed in a script; an old server's container of subcommands asks for more words first.
        assert DENIED.search(str(reply)) or "not allowed" in str(reply), (name, reply)
    record_property("commands_denied", len(others))
    assert len(others) > 180


def test_other_names_are_denied(asked: tuple[Asked, Asked]) -> None:
    """Keys and channels of others, at the top and in scripts that declare them or don't; nothing is changed."""
    user, admin = asked
    assert user("SET", "tc1:{shop:k}:v", "mine") == b"OK"
    for name in ("k", "tc1:{shop2:k}:v", "tc1:{sho:k}:v", "tc1:{SHOP:k}:v", "tc1:shop:k", "tc2:{shop:k}:v", "{shop:k}"):
        admin("SET", name, "theirs")
        tries: list[tuple[Any, ...]] = [
            ("GET", name), ("SET", name, "x"), ("DEL", name), ("PTTL", name), ("RENAME", "tc1:{shop:k}:v", name),
            ("RENAME", name, "tc1:{shop:k}:v"), ("GETRANGE", name, 0, -1), ("DEL", "tc1:{shop:k}:v", name),
        ]  # fmt: skip
        for words in tries:
            for asking in (words, ("EVAL", "return redis.call(unpack(ARGV))", 0, *words),
                           ("EVAL", "return redis.call(unpack(ARGV))", 1, name, *words)):  # fmt: skip
                reply = user(*asking)
                assert isinstance(reply, Refusal), asking
                assert DENIED.search(str(reply)), reply
        assert admin("GET", name) == b"theirs"
    for channel in ("tc1:iv:shop2", "tc1:iv:", "tc1:iv:*", "__keyspace@0__:k", "tc1:inn"):
        publish = ("PUBLISH", channel, "x")
        for asking in (publish, ("EVAL", "return redis.call(unpack(ARGV))", 0, *publish), ("SUBSCRIBE", channel)):
            reply = user(*asking)
            assert isinstance(reply, Refusal), asking
            assert DENIED.search(str(reply)), reply
    assert user("GET", "tc1:{shop:k}:v") == b"mine"


def test_two_services_with_users_of_their_own_share_a_redis(make_face: Any, shop: Any, server: RedisServer) -> None:
    """Each has the documented rights for its namespace; a cache of the wrong one is told so, and reads nothing."""
    assert LINE is not None
    shop_url = shop()
    with server.client() as client:
        client.execute_command(*LINE[0].replace("shop", "bar").replace("PASSWORD", SECRET).split())
    bar_url = shop_url.replace("//shop", "//bar")
    shop_cache, bar = make_face(shop_url), make_face(bar_url, namespace="bar")
    for n, cache in enumerate((shop_cache, bar)):
        cache.ping()
        cache.set("k", n)
        cache.clear_local()
    assert (shop_cache.get("k"), bar.get("k")) == (0, 1)
    thief = make_face(bar_url)
    assert thief.get("k") is None
    assert thief.get_or_load("k", thief.loader(lambda: "its own")) == "its own"
    for call in (thief.ping, lambda: thief.set("k", 2), lambda: thief.invalidate("k")):
        with pytest.raises(RemoteUnavailable, match=DENIED):
            call()
    shop_cache.clear_local()
    assert shop_cache.get("k") == 0


# TLS.

# A Redis without TLS waits for the rest of what it takes for a command: only the deadline ends that.
UNTIL_SILENCE_TELLS: dict[str, Any] = {"connect_timeout": 2, "call_timeout": 5, "call_budget": 60}


class Authority:
    """A certificate authority in a directory; `issue` makes a certificate and its key."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.cert = str(folder / f"{name}.pem")
        subject = ["-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", self.cert]
        use = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # CPython 3.13 asks for it
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *use)

    def issue(self, name: str, *, names: str, password: str = "") -> tuple[str, str]:
        base = str(self._folder / f"{self._name}-{name}")
        guard = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"]
        self._openssl("req", "-newkey", "rsa:2048", *guard, *subject, "-keyout", base + ".key", "-out", base + ".csr")
        signer = ["-CA", self.cert, "-CAkey", self.cert[:-3] + "key", "-CAcreateserial", "-copy_extensions", "copy"]
        self._openssl("x509", "-req", "-in", base + ".csr", "-days", "2", *signer, "-out", base + ".pem")
        return base + ".pem", base + ".key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self._folder, timeout=120)


class Tls:
    """An authority, and a server that asks every client for one of its certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.stranger = Authority(folder, "ca"), Authority(folder, "stranger")
        self.cert, self.key = self.authority.issue("server", names="DNS:localhost")
        self.port = free_port()

    def server(self, *, clients: str = "no", port: int | None = None) -> RedisServer:
        files = ("--tls-cert-file", self.cert, "--tls-key-file", self.key, "--tls-ca-cert-file", self.authority.cert)
        return RedisServer("--tls-port", str(port or self.port), "--tls-auth-clients", clients, *files)

    def url(self, *options: str, port: int | None = None, ca: str | None = None, host: str = "localhost") -> str:
        query = "&".join([f"ssl_ca_certs={ca or self.authority.cert}", *options])
        return f"rediss://:{SECRET}@{host}:{port or self.port}/0?{query}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    tls = Tls(tmp_path_factory.mktemp("tls"))
    try:
        with tls.server():
            return tls
    except ServerError as error:
        pytest.skip(f"the server has no TLS: {error}")


@pytest.fixture(scope="module")
def secured(tls: Tls) -> Iterator[RedisServer]:
    """A server with TLS that asks for no certificates, and a password."""
    server = tls.server()
    server.password = SECRET
    with server:
        yield server


def test_everything_works_with_tls(make_face: Any, tls: Tls, secured: RedisServer) -> None:
    """Every operation of both colours, large values, the inbox, and invalidations that others hear."""
    cache, other = make_face(tls.url()), make_face(tls.url())
    other.ping()
    assert use(cache) == []
    cache.set("k", "old")
    assert other.get("k") == "old"
    cache.invalidate("k")
    until(lambda: other.get("k") is None)
    large = os.urandom(3_000_000)
    cache.set("k", large)
    assert other.get("k") == large
    stats = other.stats()
    assert (stats["epochs"], stats["unread"], stats["breaker_opened"]) == (1, 0, 0)
    with secured.client() as client:
        ours = [each for each in client.client_list() if each["laddr"].endswith(f":{tls.port}")]
    assert len(ours) >= 4  # two connections of calls, two inboxes


def tls_fails(cache: Any, match: str, caplog: pytest.LogCaptureFixture) -> None:
    """`ping` and a warning say why, without secrets; callers get their values, and nothing reaches Redis."""
    with caplog.at_level(logging.DEBUG, "tiercache"):
        with pytest.raises(RemoteUnavailable, match=match) as failed:
            cache.ping()
        assert cache.get_or_load("fresh", cache.loader(lambda: "loaded")) == "loaded"
        with pytest.raises(RemoteUnavailable, match=match):
            cache.set("fresh", 1)
    assert SECRET not in str(failed.value) + caplog.text
    assert any(re.search(match, text) for text in caplog.messages)


@pytest.mark.parametrize(
    "fault", ["unknown authority", "wrong host name", "nobody vouches", "no tls", "tls to a plain port"]
)
def test_a_server_that_cannot_prove_itself_gets_nothing(
    make_face: Any, tls: Tls, secured: RedisServer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is said: the certificate, the name in it, or that there is no TLS."""
    url, match = {
        "unknown authority": (tls.url(ca=tls.stranger.cert), r"(?i)certificate verify failed"),
        "wrong host name": (tls.url(host="127.0.0.1"), r"(?i)(IP address|hostname) mismatch"),
        "nobody vouches": (f"rediss://:{SECRET}@localhost:{tls.port}/0", r"(?i)certificate verify failed"),
        "no tls": (f"redis://:{SECRET}@localhost:{tls.port}/0", r"(?i)connect|lost"),
        "tls to a plain port": (tls.url(port=secured.port), r"(?i)timeout|timed out"),
    }[fault]
    with secured.client() as client:
        client.flushall()
        tls_fails(make_face(url, **UNTIL_SILENCE_TELLS), match, caplog)
        assert client.dbsize() == 0


def test_client_certificates_are_shown(make_face: Any, tls: Tls, caplog: pytest.LogCaptureFixture) -> None:
    """With one of the right authority all works, its key locked or not; without, or with a stranger's, it is said."""
    port = free_port()
    with tls.server(clients="yes", port=port):
        cert, key = tls.authority.issue("client", names="DNS:client")
        locked_cert, locked = tls.authority.issue("locked", names="DNS:client", password=SECRET)
        mine = f"ssl_certfile={cert}", f"ssl_keyfile={key}"
        unlocked = f"ssl_certfile={locked_cert}", f"ssl_keyfile={locked}", f"ssl_password={SECRET}"
        for options in (mine, unlocked):
            cache = make_face(tls.url(*options, port=port).replace(f":{SECRET}@", ""))
            assert use(cache) == []
        cert, key = tls.stranger.issue("client", names="DNS:client")
        theirs = f"ssl_certfile={cert}", f"ssl_keyfile={key}"
        for options in ((), theirs):
            # With TLS 1.3 the server says so after the handshake, or just closes.
            tls_fails(make_face(tls.url(*options, port=port)), r"(?i)ssl|alert|closed|reset|connect", caplog)
        badly = f"ssl_certfile={locked_cert}", f"ssl_keyfile={locked}", f"ssl_password={SECRET}x"
        tls_fails(make_face(tls.url(*badly, port=port)), r"(?i)ssl|password|decrypt", caplog)


def test_a_server_that_stops_tls_is_not_talked_to(make_face: Any, tls: Tls, caplog: pytest.LogCaptureFixture) -> None:
    """In its place one without TLS: values are served and loaded, it hears nothing; with TLS again all is well."""
    port = free_port()
    with tls.server(port=port) as server:
        url = tls.url(port=port).replace(f":{SECRET}@", "")
        cache, other = make_face(url, **UNTIL_SILENCE_TELLS), make_face(url)
        other.ping()
        assert cache.get_or_load("k", cache.loader(lambda: "old")) == "old"
        server.halt()
        with RedisServer(port=port) as plain:
            with plain.client() as client:
                tls_fails(cache, r"(?i)timeout|timed out", caplog)
                assert client.dbsize() == 0
                assert "cmdstat_auth" not in client.info("commandstats")
            assert other.get_or_load("k", other.loader(lambda: "here")) == "here"
        server.launch()

        def back(each: Any) -> bool:
            try:
                each.ping()
            except RemoteUnavailable:
                return False
            return True

        for each in (cache, other):
            until(lambda: back(each))  # noqa: B023  # called at once
        cache.set("k", "new")
        until(lambda: other.get("k") == "new")
    assert any("closed" in text for text in caplog.messages)


def test_the_reason_is_said_with_the_default_timeouts(make_face: Any, tls: Tls, secured: RedisServer) -> None:
    """When all that a call may take was spent on connecting, `ping` says that, and not only that it is spent."""
    cache = make_face(tls.url(port=secured.port), connect_timeout=0.25, call_timeout=0.1, call_budget=0.5)
    with pytest.raises(RemoteUnavailable, match=r"(?i)timeout|timed out"):
        cache.ping()
