"""What is secret is in no log, error, warning or repr, however the connection fails."""

import gc
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from both import FACES
from redis_server import RedisServer, free_port
from tier2 import FakeRedis

from tiercache import Cache
from tiercache.remote.address import Address

# Each is found by its own parts: a password that is cut at one of its characters leaves one of them.
PASSWORD = "canary1/canary2?canary3#canary4@canary5:canary6%canary7"
USER = "canary8"
KEY = b"canary9-canary9-canary9"
PATIENT: dict[str, Any] = {"connect_timeout": 1, "call_timeout": 1, "call_budget": 10}


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception with all that it was caused by, or raised during, shown or not."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    for each in todo:
        if each is not None and each not in seen:
            seen.append(each)
            todo += [each.__cause__, each.__context__]
            yield each


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """All that was said in a test is looked through at its end; a test adds what it heard besides."""
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        yield said
        gc.collect()  # what is left behind says so when it is collected
    for record in caplog.records:
        said += [record.getMessage(), repr(record.args), repr(record.msg)]
        said += [str(each) + repr(each) for each in chain(record.exc_info[1])] if record.exc_info else []
    said += [caplog.text, *capfd.readouterr()]
    assert "canary" not in "\n".join(said)


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def use(request: pytest.FixtureRequest, namespace: str, told: list[str]) -> Callable[..., int]:
    """Calls every operation of a cache; what was raised and shown is told. The number of errors."""

    def run(url: str | None = None, **settings: Any) -> int:
        cache = request.param(Cache(url, **{"namespace": namespace, "sign_with": KEY, **PATIENT, **settings}))
        errors = []
        calls: list[Callable[[], object]] = [
            cache.ping,
            lambda: cache.get("k"),
            lambda: cache.get_many(["k", "k2"]),
            lambda: cache.get_or_load("k", cache.loader(lambda: "loaded")),
            lambda: cache.refresh("k", cache.loader(lambda: "loaded")),
            lambda: cache.set("k", 1),
            lambda: cache.invalidate("k"),
            lambda: cache.set("k", object()),
            cache.ping,
            cache.close,
        ]
        for call in calls:
            try:
                call()
            except Exception as error:
                errors.append(error)
        node = cache.cache._process.node
        shown = [cache.cache, cache.cache._process, node.remote, node.values, node.values._signer, cache.stats()]
        told.extend(str(each) + repr(each) for each in shown)
        told.extend(str(each) + repr(each) + repr(each.args) for error in errors for each in chain(error))
        return len(errors)

    return run


def login(user: str = USER, password: str = PASSWORD) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}@"


def echo(command: list[bytes]) -> bytes:
    """What Redis answers to a command that it does not know: what was sent."""
    words = b" ".join(b"'%b'" % word for word in command[1:])
    return b"-ERR unknown command '%b', with args beginning with: %b\r\n" % (command[0], words)


def quoting(command: list[bytes]) -> bytes:
    """Another server's way to say so."""
    return b"-ERR what is %b?\r\n" % b" ".join(command)


def test_a_server_that_cannot_be_reached(use: Any) -> None:
    """Refused, a name that is none, no such socket, and a port where nobody speaks Redis."""
    port = free_port()
    assert use(f"redis://{login()}127.0.0.1:{port}/0") >= 4
    assert use(f"redis://{login()}nowhere.invalid:{port}/0") >= 4
    assert use(f"unix://{login()}/nowhere/redis.sock") >= 4
    assert use(f"redis://127.0.0.1:{port}/0?username={USER}&password={quote(PASSWORD, safe='')}") >= 4
    with FakeRedis(lambda command: b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        assert use(server.url.replace("//", f"//{login()}")) >= 4
    with FakeRedis(lambda command: None) as server:
        assert use(server.url.replace("//", f"//{login()}")) >= 4


def test_a_server_that_refuses_the_login(use: Any) -> None:
    """WRONGPASS, NOAUTH, no password set, no such database."""
    with RedisServer(password="right") as server:
        for wrong in (login(), login(user=""), f"{USER}@"):
            assert use(f"redis://{wrong}127.0.0.1:{server.port}/0") >= 4
            assert use(f"unix://{wrong}{server.socket_path}") >= 4
    with RedisServer() as server:
        assert use(f"redis://{login()}127.0.0.1:{server.port}/0") >= 4
        assert use(f"redis://{login(user='')}127.0.0.1:{server.port}/0") in (1, 5)  # old servers mind no password
    with RedisServer(password=PASSWORD) as server:
        assert use(f"redis://{login(user='')}127.0.0.1:{server.port}/999") >= 4


def test_a_user_who_lacks_rights(use: Any) -> None:
    """NOPERM for everything, or for some things."""
    with RedisServer() as server, server.client() as client:
        for rules in (["+@connection"], ["~*", "&*", "+@all", "-evalsha"], ["~*", "+@all", "resetchannels"]):
            client.execute_command("ACL", "SETUSER", "shop", "reset", "on", f">{PASSWORD}", *rules)
            assert use(f"redis://{login(user='shop')}127.0.0.1:{server.port}/0") >= 3


@pytest.mark.parametrize("answer", [echo, quoting])
def test_a_server_that_quotes_the_login(use: Any, answer: Any) -> None:
    """One that does not know AUTH says what came with it; the reason is shown without that."""
    with FakeRedis(answer) as server:
        assert use(server.url.replace("//", f"//{login(user='shop')}")) >= 4


def test_a_redis_without_auth_quotes_the_login(use: Any, told: list[str]) -> None:
    """A real one, whose AUTH was renamed: it cuts a long password, and one from a provider is not known here."""
    with RedisServer("--rename-command", "AUTH", "") as server:
        for password in (PASSWORD, PASSWORD * 5):
            assert use(f"redis://{login('shop', password)}127.0.0.1:{server.port}/0") >= 4
        provider = redis.UsernamePasswordCredentialProvider("shop", PASSWORD)
        assert use(client=redis.Redis(port=server.port, credential_provider=provider)) >= 4
    assert re.search("unknown command .AUTH.", "\n".join(told))


def test_clients_with_secrets(use: Any, tmp_path: Path) -> None:
    """Ready-made clients of either colour, providers of credentials, and the password of a TLS key."""
    port = free_port()
    provider = redis.UsernamePasswordCredentialProvider(USER, PASSWORD)
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END ENCRYPTED PRIVATE KEY-----\n")
    tls = {"ssl": True, "ssl_certfile": str(key), "ssl_keyfile": str(key), "ssl_password": PASSWORD}
    for colour in (redis, redis.asyncio):
        assert use(client=colour.Redis(port=port, username=USER, password=PASSWORD)) >= 4
        assert use(client=colour.Redis(port=port, credential_provider=provider)) >= 4
        with RedisServer() as server:
            assert use(client=colour.Redis(port=server.port, username=USER, password=PASSWORD, **tls)) >= 4
            assert use(client=colour.Redis(port=server.port, credential_provider=provider)) >= 4


BAD_URLS = [
    "redis://:{}@localhost", "redis://user:{}@localhost/0", "redis://{}@localhost", "redis://:{}", "redis://u:{}",
    "redis://localhost:{}", "redis://localhost/{}", "http://u:{}@localhost", "unix://u:{}@/tmp/redis.sock",
    "unix://{}@/tmp/redis.sock", "rediss://:{}@localhost?ssl_cert_reqs={}", "redis://:{}@[::1", "redis://[{}]@h",
    "redis://:x@localhost?db={}", "redis://h?password=x&socket_timeout={}", "{}", ":{}@localhost", "redis:{}@localhost",
]  # fmt: skip
SECRET = ["username", "password"]
PIECES = ["canary1/canary2", "canary1?canary2", "canary1#canary2", "canary1[canary2", "canary1\u2100canary2", "12/34",
          "1234?canary1", "1234#canary1", "canary1@canary2/canary3", "1/2?canary1@x", "%zz/canary"]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_a_password_that_was_not_encoded_is_refused_and_not_shown(piece: str, told: list[str]) -> None:
    """Whatever part of the URL it was taken for: it names no host that would be asked for, and is in no error."""
    for form in BAD_URLS:
        url = form.replace("{}", piece)
        try:
            address = Address(url, None)
        except ValueError as error:
            told.append(str(error) if str(error).startswith("url: not a Redis address") else "canary: " + str(error))
            told.extend(str(each) + repr(each) for each in chain(error))
            continue
        # What is taken is what it seems to be: nothing of it stands where errors would name it.
        arguments = {name: value for name, value in address._sync_arguments.items() if name not in SECRET}
        told.append(repr(address) + repr(arguments))
        if "@" in url and not url.startswith("unix"):
            assert (arguments["host"] in ("localhost", "h"), arguments.get("port", 6379)) == (True, 6379), url


def test_a_quoted_password_is_taken_whole() -> None:
    """In the part for it, and as an option."""
    for url in (f"redis://{login()}localhost/0", f"redis://localhost/0?password={quote(PASSWORD, safe='')}"):
        assert Address(url, None)._sync_arguments["password"] == PASSWORD
    assert Address("unix:///tmp/a@b.sock?db=2", None)._sync_arguments["path"] == "/tmp/a@b.sock"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_uncaught_error_shows_no_secret(colour: str) -> None:
    """A traceback on stderr, with warnings on and the log written there."""
    call = "cache.set('k', 1)" if colour == "sync" else "asyncio.run(cache.aset('k', 1))"
    program = (
        "import asyncio, logging, sys\nfrom tiercache import Cache\nlogging.basicConfig(level=logging.DEBUG)\n"
        f"cache = Cache(sys.argv[1], sign_with=sys.argv[2].encode())\n{call}\n"
    )
    url = f"redis://{login()}127.0.0.1:{free_port()}/0"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, url, KEY.decode()]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root, check=False)
    assert done.returncode == 1
    assert "RemoteUnavailable" in done.stderr
    assert "canary" not in done.stdout + done.stderr
