"""The settings of `TierCache`: what is accepted, what is refused and how; and a Redis that is away."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer

pytest.importorskip("django", reason="Django is not installed (extra apps)")

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished
from django_processes import Async, Sync

from tiercache import RemoteUnavailable
from tiercache.contrib.django import TierCache
from tiercache.contrib.django.shared import CACHE_OPTIONS, DJANGO_OPTIONS, POLICY_OPTIONS

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("location", "options", "says"),
    [
        ("", {}, "LOCATION"),
        (["redis://a", "redis://b"], {}, "one Redis URL"),
        (5, {}, "LOCATION"),
        ("http://localhost", {}, "redis"),
        ("redis://:hunter2@localhost:port/0", {}, "CACHES"),
        (None, {"namespace": "a b"}, "namespace"),
        (None, {"beta": -1}, "beta"),
        (None, {"MAX_ENTRIES": "many"}, "many"),
        (None, {"parser_class": "x"}, "'parser_class' is no option"),
        (None, {"ttl": 5}, "'ttl' is no option"),
        (None, {"sign_with": b"short"}, "sign_with"),
        (None, {"sign_with": None}, "sign_with"),
        (None, {"around_load": "no.such.module"}, "no"),
        (None, {"compress": "gzip"}, "compress"),
    ],
)
def test_wrong_settings_are_improperly_configured(location: Any, options: dict[str, Any], says: str) -> None:
    """The message says which one, and shows no password."""
    with pytest.raises(ImproperlyConfigured, match=says) as caught:
        TierCache("redis://localhost" if location is None else location, {"OPTIONS": options})
    assert "hunter2" not in str(caught.value)


def test_the_options_are_explained() -> None:
    """Each has its place in the table of docs/django_backend.md, and nothing else has."""
    page = (Path(__file__).parents[2] / "docs" / "django_backend.md").read_text(encoding="utf-8")
    table = page.partition("## Options\n")[2].partition("\n## ")[0]
    explained = {name for row in re.findall(r"^\| (`.+?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert explained == POLICY_OPTIONS | CACHE_OPTIONS | DJANGO_OPTIONS


def test_options_reach_the_cache(make: Make) -> None:
    """Those of Cache and of Policy, and Django's for culling."""
    backend = make(
        OPTIONS={"MAX_ENTRIES": "50", "CULL_FREQUENCY": 2, "beta": 0, "local_ttl": 5, "compress": "zlib"},
    )
    assert (backend._cache.policy.beta, backend._cache.policy.local_ttl) == (0, 5)
    for each in range(100):
        backend.set(str(each), each)
    assert backend._cache.stats()["entries"] == 50
    assert len(backend.get_many(map(str, range(100)))) == 100


def test_backends_of_the_same_settings_share_a_cache(make: Make, redis_server: RedisServer) -> None:
    """Django makes one for each thread, and closes it after each request."""
    caches = [make()._cache, make(KEY_PREFIX="p", TIMEOUT=5, VERSION=3)._cache]
    thread = threading.Thread(target=lambda: caches.append(make()._cache))
    thread.start()
    thread.join()
    assert len(set(map(id, caches))) == 1
    assert make(location=[redis_server.url])._cache is not make(1)._cache
    make().close()
    request_finished.send(sender=None)
    make().set("k", 1)
    assert make().get("k") == 1


def test_without_redis(make: Make) -> None:
    """Reads find nothing, defaults are loaded and kept here, writes say so; IGNORE_EXCEPTIONS makes them silent."""
    with RedisServer() as server:
        for face in (Sync, Async):
            cache = face(make(location=server.url, OPTIONS={"namespace": face.__name__}))
            cache.set("k", "kept")
            cache.end()
        url = server.url
    for face in (Sync, Async):
        strict = face(make(location=url, OPTIONS={"namespace": "strict" + face.__name__}))
        tolerant = face(make(location=url, OPTIONS={"namespace": face.__name__ + "2", "IGNORE_EXCEPTIONS": True}))
        for cache in (strict, tolerant):
            calls: list[int] = []
            assert cache.get("k", "no") == "no"
            assert cache.get_many(["k"]) == {}
            assert not cache.has_key("k")
            for _ in range(2):
                assert cache.get_or_set("new", lambda calls=calls: calls.append(1) or [5]) == [5]
            assert len(calls) == 1
        writes = [("set", "k", 1), ("add", "k", 1), ("touch", "k"), ("delete", "k"), ("incr", "k"), ("clear",)]
        for name, *arguments in [*writes, ("set_many", {"k": 1}), ("delete_many", ["k"])]:
            with pytest.raises(RemoteUnavailable):
                getattr(strict, name)(*arguments)
            if name == "incr":
                with pytest.raises(ValueError, match="not found"):
                    tolerant.incr("k")
            else:
                assert getattr(tolerant, name)(*arguments) in (None, False, [])
        strict.end()
        tolerant.end()
