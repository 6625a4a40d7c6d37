"""Where Redis is: URLs and ready-made clients, for both colours, and what is refused."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_server import RedisServer, ServerError, free_port

from tiercache import Cache, RemoteUnavailable
from tiercache.remote.address import Address

SECRET = "pa/ss#w0rd@!%"  # every character that a URL can trip over


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server with a password, and a user with another."""
    with RedisServer(password=SECRET) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "shop", "on", f">{SECRET}2", "~*", "&*", "+@all")
        yield server


def works(**settings: Any) -> None:
    """A cache made so answers in both colours, and others hear of what it does."""
    cache = Cache(settings.pop("url", None), connect_timeout=5, call_timeout=5, call_budget=10, **settings)

    async def use() -> Any:
        async with cache:
            await cache.aping()
            await cache.aset("k", 2)
            cache.clear_local()
            return await cache.aget("k")

    cache.ping()
    cache.set("k", 1)
    cache.clear_local()
    assert cache.get("k") == 1
    assert asyncio.run(use()) == 2


def quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def test_urls_of_every_kind_work_in_both_colours(redis_server: RedisServer, namespace: str) -> None:
    """TCP with a database, a unix socket, and options that redis-py knows but which are ours to set."""
    port = redis_server.port
    for url in (
        f"redis://127.0.0.1:{port}/3",
        f"redis://127.0.0.1:{port}",
        f"redis://127.0.0.1:{port}/?db=2&protocol=3&decode_responses=true&socket_timeout=0.0001&client_name=shop",
        f"redis://127.0.0.1:{port}/1?retry_on_timeout=true&health_check_interval=1&max_connections=1",
        f"unix://{redis_server.socket_path}?db=2",
    ):
        works(url=url, namespace=namespace)


def test_passwords_and_users_work_in_both_colours(guarded: RedisServer, namespace: str) -> None:
    """Percent-encoded in the URL, whatever characters they have."""
    for login in (f":{quoted(SECRET)}", f"shop:{quoted(SECRET + '2')}"):
        works(url=f"redis://{login}@127.0.0.1:{guarded.port}/0", namespace=namespace)
        works(url=f"unix://{login}@{guarded.socket_path}", namespace=namespace)


@pytest.mark.parametrize("colour", [redis, redis.asyncio], ids=["sync", "async"])
def test_a_ready_made_client_of_either_colour_gives_both(guarded: RedisServer, namespace: str, colour: Any) -> None:
    """Its settings are taken, but not its decoding, protocol and retries; it is neither used nor closed."""
    login = {"host": "127.0.0.1", "port": guarded.port, "password": SECRET}
    retry = (redis.asyncio.retry.Retry if colour is redis.asyncio else Retry)(NoBackoff(), 9)
    blocking = colour.BlockingConnectionPool(timeout=1, max_connections=1, **login)
    clients = [
        colour.Redis(**login),
        colour.Redis(**login, decode_responses=True, protocol=3, db=4, client_name="shop"),
        colour.Redis(**login, retry=retry, retry_on_error=[redis.ReadOnlyError], health_check_interval=1),
        colour.Redis(connection_pool=blocking),
        colour.Redis(unix_socket_path=guarded.socket_path, password=SECRET),
        colour.Redis(
            host="127.0.0.1",
            port=guarded.port,
            credential_provider=redis.UsernamePasswordCredentialProvider("shop", SECRET + "2"),
        ),
        colour.Redis.from_url(f"redis://:{quoted(SECRET)}@127.0.0.1:{guarded.port}/5"),
    ]
    for client in clients:
        works(client=client, namespace=namespace)
        assert getattr(client.connection_pool, "_created_connections", 0) == 0


def test_a_users_own_connection_class_is_kept_for_its_colour(redis_server: RedisServer, namespace: str) -> None:
    """The other colour gets redis-py's own."""
    made = []

    class Own(redis.Connection):
        def __init__(self, **arguments: Any) -> None:
            made.append(self)
            super().__init__(**arguments)

    pool = redis.ConnectionPool(connection_class=Own, host="127.0.0.1", port=redis_server.port)
    works(client=redis.Redis(connection_pool=pool), namespace=namespace)
    assert made


def test_what_is_no_client_of_one_server_is_refused() -> None:
    """Cluster, Sentinel and anything else: a TypeError that says so, before anything is sent."""
    nodes = [("127.0.0.1", 1)]
    for client in (
        redis.sentinel.Sentinel(nodes).master_for("m"),
        redis.asyncio.sentinel.Sentinel(nodes).slave_for("m"),
        redis.RedisCluster.__new__(redis.RedisCluster),
        redis.asyncio.RedisCluster(host="127.0.0.1", port=1),
    ):
        with pytest.raises(TypeError, match="Sentinel are not supported yet"):
            Cache(client=client)
    for nonsense in ("redis://localhost", object(), 5):
        with pytest.raises(TypeError, match=r"client must be a redis\.Redis"):
            Cache(client=nonsense)
    for nonsense in (5, b"redis://localhost", object()):
        with pytest.raises(TypeError, match="url must be a str"):
            Cache(nonsense)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not both"):
        Cache("redis://localhost", client=redis.Redis())


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:6379", "http://localhost", "redis:/localhost", "redis://localhost:port", "redis://localhost:99999",
        "redis://localhost/shop", "redis://localhost/1/2x", "redis://[::1", "redis://localhost?db=x",
        "redis://localhost?nonsense=1", "redis://localhost?ssl=true", "rediss://localhost?ssl_cert_reqs=perhaps",
    ],
)  # fmt: skip
def test_a_bad_url_is_refused_at_once(url: str) -> None:
    """The message shows the three forms."""
    with pytest.raises(ValueError, match=r"url: not a Redis address.*redis://host:port/db.*unix:///path"):
        Cache(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cr/et@localhost", "redis://user:s3cr#et@localhost", "redis://:s3cr?et@localhost:1",
        "http://u:s3cret@localhost", "redis://:s3cret@localhost:port", "redis://:s3cret@localhost/?nonsense=s3cret",
        "redis://:s3cr:et@host:x", "rediss://:s3cret@localhost?ssl_cert_reqs=s3cret",
    ],
)  # fmt: skip
def test_a_bad_url_never_shows_its_password(url: str) -> None:
    """Nor a piece of it; it says what is usually wrong."""
    with pytest.raises(ValueError, match="percent-encoded") as bad:
        Cache(url)
    assert "s3c" not in str(bad.value)
    assert bad.value.__suppress_context__


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder: Path = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert,
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def tls_port(certificate: tuple[str, str], redis_server: RedisServer) -> Iterator[int]:
    cert, key = certificate
    arguments = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
    port = free_port()
    server = RedisServer("--tls-port", str(port), *arguments)
    try:
        server.start()
    except ServerError as error:
        pytest.skip(f"the server has no TLS: {error}")
    yield port
    server.stop()


def test_tls_works_in_both_colours(certificate: tuple[str, str], tls_port: int, namespace: str) -> None:
    """By URL, and by a client of either colour, whose colour's own settings do not disturb the other."""
    ca = certificate[0]
    works(url=f"rediss://localhost:{tls_port}/0?ssl_ca_certs={ca}", namespace=namespace)
    works(url=f"rediss://127.0.0.1:{tls_port}/0?ssl_cert_reqs=none", namespace=namespace)
    for colour in (redis, redis.asyncio):
        works(client=colour.Redis(host="localhost", port=tls_port, ssl=True, ssl_ca_certs=ca), namespace=namespace)


def test_a_certificate_that_nobody_vouches_for_is_said(
    tls_port: int, make_cache: Callable[..., Cache], namespace: str
) -> None:
    """`ping` names the reason; loads go on without Redis."""
    cache = make_cache(f"rediss://:s3cret@localhost:{tls_port}/0", connect_timeout=5, call_budget=10)
    with pytest.raises(RemoteUnavailable, match=r"(?i)certificate") as refused:
        cache.ping()
    assert "s3cret" not in str(refused.value)
    assert cache.get_or_load("k", lambda: 1) == 1


def test_a_wish_that_one_colour_cannot_fulfil_is_not_dropped_in_silence() -> None:
    """redis.asyncio can't check OCSP: it refuses, rather than connect unchecked."""
    address = Address(None, redis.Redis(ssl=True, ssl_validate_ocsp=True))
    address.connection(1.0)
    with pytest.raises(TypeError, match="ssl_validate_ocsp"):
        address.async_connection()
