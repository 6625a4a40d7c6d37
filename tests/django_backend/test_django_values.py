"""Any object in `TierCache`, a new one for each reader; and no pickle is loaded whose signature is not good."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis_server import RedisServer

pytest.importorskip("django", reason="Django is not installed (extra apps)")

from django.test.utils import override_settings
from django.utils.safestring import SafeString, mark_safe
from django_processes import SECRET, Async, Sync

from tiercache import CodecError
from tiercache.contrib.pickling import Pickled, freeze, pickling_cache, thaw
from tiercache.local.record import SIGNED, unpack

Make = Callable[..., Any]


class Point:
    """Any class that can be pickled."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return type(other) is Point and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("value", [Point(3), Point, len, mark_safe("<b>"), {"a": [Point(1)]}, 1 << 200, float("inf")])
def test_any_picklable_object(cache: Any, make: Make, value: Any) -> None:
    """The same for the process that stored it and for another one."""
    cache.set("k", value)
    for reader in (cache.backend, make(1)):
        found = reader.get("k")
        assert (type(found), found) == (type(value), value)
        assert reader.get_many(["k"]) == {"k": value}
    assert not isinstance(value, SafeString) or isinstance(make(1).get("k"), SafeString)


def test_what_a_reader_changes_is_its_own(cache: Any, make: Make) -> None:
    """Nobody else sees it, whichever tier answers: sessions are changed in place."""
    value = {"basket": [1]}
    cache.set("k", value)
    value["basket"].append(2)
    for reader in (cache.backend, make(1)):
        for _ in range(3):
            found = reader.get("k")
            assert found == {"basket": [1]}
            found["basket"].append(3)
    loaded = cache.get_or_set("new", lambda: {"basket": []})
    loaded["basket"].append(4)
    assert cache.get_or_set("new", None) == {"basket": []}


def test_a_large_object(cache: Any, make: Make) -> None:
    """Larger than a Cache takes by itself, since Django's backends take it, too."""
    value = {"page": b"x" * 33 * 2**20}
    cache.set("k", value)
    assert make(1).get("k") == value


def test_what_cannot_be_pickled_is_said_at_once(cache: Any) -> None:
    """By pickle's own error, as with Django's backends, and nothing is stored."""
    for name, value in (("set", lambda: None), ("add", lambda: None), ("get_or_set", lambda: lambda: None)):
        with pytest.raises((pickle.PicklingError, AttributeError)):
            getattr(cache, name)("k", value)
    assert not cache.has_key("k")


class Bomb:
    """A pickle of this tells that it was loaded."""

    loaded: list[str] = []  # noqa: RUF012

    def __reduce__(self) -> Any:
        return Bomb.loaded.append, ("a bomb",)


def test_a_planted_pickle_is_never_loaded(make: Make, client: redis.Redis, namespace: str, cache: Any) -> None:
    """Unsigned, signed with another key, or moved from another name: a miss, and nothing of it runs."""
    with override_settings(SECRET_KEY="of somebody else"):
        stranger = make(1)
    Bomb.loaded.clear()
    cache.set("k", "good")
    cache.set("other", Bomb())
    [name] = client.keys(f"tc1:{{{namespace}:*:k}}:v")
    [elsewhere] = client.keys(f"tc1:{{{namespace}:*:other}}:v")
    generation = name.decode().split(":")[2]
    moved = client.get(elsewhere)
    stranger._cache.set(f"{generation}::1:stranger", freeze(Bomb()), ttl=60)
    [foreign] = client.keys(f"tc1:{{{namespace}:*:stranger}}:v")
    record = unpack(moved)
    assert record is not None
    unsigned = record._replace(payload=record.payload[:-16], signed=False).pack()
    assert moved[5] & SIGNED
    for process, data in enumerate((moved, client.get(foreign), unsigned), 10):
        client.set(name, data, px=60_000)
        reader = make(process)
        for face in (Sync(reader), Async(reader)):
            assert face.get("k", "nothing") == "nothing"
            assert face.get_many(["k"]) == {}
            assert not face.touch("k")
            with pytest.raises(ValueError, match="not found"):
                face.incr("k")
            face.end()
        assert reader._cache.stats()["undecodable"] >= 8
    assert reader.add("k", "new")
    assert Bomb.loaded == []
    assert make(1).get("k", "nothing") == "new"


def test_secret_keys_can_be_changed(make: Make) -> None:
    """What was signed with an old key is read while that is among SECRET_KEY_FALLBACKS."""
    make().set("k", ["old"])
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[SECRET]):
        assert make(1).get("k") == ["old"]
        make(1).set("k", ["new"])
    assert make(2).get("k") is None
    with override_settings(SECRET_KEY="new"):
        assert make(3).get("k") is None
    key = b"k" * 32
    make(4, OPTIONS={"sign_with": key}).set("k", "mine")
    assert make(5, OPTIONS={"sign_with": [b"another key of mine", key]}).get("k") == "mine"


def test_the_codec_comes_with_signatures_alone(redis_server: RedisServer, namespace: str) -> None:
    """No key, no cache; what it stores can be anything, and shared values are as they were."""
    for keys_ in (None, b"short", []):
        with pytest.raises((TypeError, ValueError), match="sign_with"):
            pickling_cache(redis_server.url, sign_with=keys_)
    with (
        pickling_cache(redis_server.url, namespace=namespace, sign_with=b"k" * 16) as cache,
        pickling_cache(redis_server.url, namespace=namespace, sign_with=b"k" * 16) as other,
    ):
        assert cache._process.node.values.signed
        cache.set("k", Point(1))
        cache.set("frozen", freeze([1]))
        assert other.get("k") == Point(1)
        assert isinstance(other.get("frozen"), Pickled)
        assert thaw(other.get("frozen")) == thaw(other.get("frozen")) == [1]
        with pytest.raises(CodecError, match="'f' can't be encoded"):
            cache.set("f", lambda: None)

        def missing() -> None:
            raise LookupError("row", 7)

        for each in (cache, other):
            with pytest.raises(LookupError, match="7"):
                each.get_or_load("none", missing, negative_errors=(LookupError,))


def test_a_value_whose_class_is_gone_is_a_miss(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a deployment: it is loaded anew, and no caller gets an error."""
    make().set("k", Point(1))
    monkeypatch.delattr("test_django_values.Point")
    other = make(1)
    assert other.get("k", "nothing") == "nothing"
    assert other.get_or_set("k", "new") == "new"
    assert make(2).get("k") == "new"
