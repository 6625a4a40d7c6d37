"""Where Redis is: a URL or a ready-made client, as the arguments of our own connections."""

import inspect
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio

_NOT_OURS = (
    "maint_notifications_config",
    "maint_notifications_pool_handler",
    "event_dispatcher",
    "himport_registry",
    "oss_cluster_maint_notifications_handler",
    "retry_on_timeout",
    "retry_on_error",
    "health_check_interval",
    "socket_keepalive_options",
    "parser_class",
    "encoding_errors",
)
_COLOURS = {  # a class stands before its bases
    redis.SSLConnection: redis.asyncio.SSLConnection,
    redis.Connection: redis.asyncio.Connection,
    redis.UnixDomainSocketConnection: redis.asyncio.UnixDomainSocketConnection,
}


class Address:
    """Makes connections of both colours to one Redis."""

    def __init__(self, url: str | None, client: Any) -> None:
        if client is not None:
            self._sync, self._async, arguments = _of_client(client)
        else:
            assert url is not None
            self._sync, self._async, arguments = _of_url(url)
        for name in _NOT_OURS:
            arguments.pop(name, None)
        arguments |= {"decode_responses": False, "protocol": 2, "retry": None}
        self._secrets = [arguments[name] for name in ("password", "ssl_password") if arguments.get(name)]
        self._sync_arguments = _for(self._sync, arguments)
        self._async_arguments = _for(self._async, arguments)

    def connection(self, connect_timeout: float) -> Any:
        """A new connection for threads, not yet connected."""
        timeouts = {"socket_timeout": connect_timeout, "socket_connect_timeout": connect_timeout}
        return self._sync(**{**self._sync_arguments, **timeouts})

    def async_connection(self) -> Any:
        """A new connection for asyncio, not yet connected; it has no timeouts of its own."""
        return self._async(**{**self._async_arguments, "socket_timeout": None, "socket_connect_timeout": None})

    def clean(self, text: str) -> str:
        """What was said about a login, without its secrets: a server may quote the command that it does not know."""
        text = text.partition(", with args beginning with")[0]
        for secret in self._secrets:
            text = text.replace(str(secret), "***")
        return text


def _of_url(url: str) -> tuple[Any, Any, dict[str, Any]]:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str such as 'redis://localhost:6379/0', not {type(url).__name__}")
    why = _misread(url)
    try:
        pool = redis.ConnectionPool.from_url(url)
        arguments = dict(pool.connection_kwargs)
        pool.connection_class(**arguments)  # it does no I/O; what it does not take is said here and now
    except (ValueError, TypeError, redis.RedisError) as error:
        # Where one part of a URL is mistaken for another, any part can hold the password, or a piece of it.
        why = why or ("it can't be read" if "@" in url or "password" in url else f"redis-py says: {error}")
    if why:
        hint = " (is every / ? # @ % in its password percent-encoded?)" if "@" in url else ""
        raise ValueError(
            f"url: not a Redis address: {why}{hint}; "
            "use redis://host:port/db, rediss://host:port/db or unix:///path/to/socket"
        ) from None
    return pool.connection_class, _COLOURS[pool.connection_class], arguments


def _misread(url: str) -> str:
    """What shows that a URL is none of Redis's, or that its password ended before its end; shows nothing of it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it can't be read"
    if parts.scheme not in ("redis", "rediss", "unix"):
        return "its scheme is another"
    is_file = parts.scheme == "unix" and (not parts.netloc or parts.netloc.endswith("@"))
    if parts.fragment or "@" in parts.query or ("@" in parts.path and not is_file):
        return "it goes on after its address"
    if parts.scheme == "unix":
        return ""
    try:
        _ = parts.port
    except ValueError:
        return "its port is not a number up to 65535"
    database = parts.path.strip("/")
    return "" if not database or database.isdecimal() else "the database after the last / must be a number"


def _of_client(client: Any) -> tuple[Any, Any, dict[str, Any]]:
    if not isinstance(client, (redis.Redis, redis.asyncio.Redis)):
        raise TypeError(
            f"client must be a redis.Redis or redis.asyncio.Redis, not {type(client).__name__}; "
            "Redis Cluster and Sentinel are not supported yet"
        )
    pool = client.connection_pool
    sentinel = "sentinel" in pool.connection_class.__module__
    for sync, other in () if sentinel else _COLOURS.items():
        # A user's own subclass is kept for its colour; the other colour gets redis-py's class.
        if issubclass(pool.connection_class, sync):
            return pool.connection_class, other, dict(pool.connection_kwargs)
        if issubclass(pool.connection_class, other):
            return sync, pool.connection_class, dict(pool.connection_kwargs)
    raise TypeError(
        f"client uses {pool.connection_class.__name__}, which tiercache can't connect with; "
        "Redis Cluster and Sentinel are not supported yet"
    )


def _for(connection_class: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    # One colour knows settings that the other does not. Those that say nothing are left out; one that is set, such
    # as a wish to validate certificates, is kept, for the class itself to refuse.
    known = {
        name
        for base in connection_class.__mro__
        if base is not object
        for name in inspect.signature(base.__init__).parameters
    }
    return {name: value for name, value in arguments.items() if name in known or value}
