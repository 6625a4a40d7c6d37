"""A Redis that the user named: reached, or the reason in one line, without the password."""

import contextlib
from collections.abc import Iterator

import redis

from tiercache.cli.server import connect

SCHEMES = ("redis://", "rediss://", "unix://")


class Unreachable(Exception):
    """It can't be used as asked; the text is one line."""


def shown(url: str) -> str:
    """The URL without its user, password and query."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    return (scheme + separator + rest.rpartition("@")[2]) if separator else scheme.rpartition("@")[2]


@contextlib.contextmanager
def reached(url: str) -> Iterator[redis.Redis]:
    """A client of a server that answers and lets us in; else, and for what fails within, Unreachable."""
    at = shown(url)
    if not url.startswith(SCHEMES):
        raise Unreachable(f"{at} is not a Redis URL: it must begin with {', '.join(SCHEMES)}")
    try:
        with contextlib.closing(connect(url)) as client:
            client.ping()
            yield client
    except (ValueError, TypeError) as error:
        why = "" if "@" in url else f": {error}"  # which may quote the password
        raise Unreachable(f"{at} is not a Redis URL{why}") from error
    except redis.AuthenticationError as error:
        raise Unreachable(f"the Redis at {at} refuses the login: {error}") from error
    except redis.ConnectionError as error:
        raise Unreachable(f"no Redis can be reached at {at}: {error}") from error
    except redis.TimeoutError as error:
        raise Unreachable(f"the Redis at {at} does not answer: {error}") from error
    except redis.RedisError as error:
        raise Unreachable(f"the Redis at {at} can't be used: {error}") from error
