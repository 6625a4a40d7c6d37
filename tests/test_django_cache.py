"""`tiercache.contrib.django.TierCache`: Django's cache API, in both colours, alone and in a fleet."""

import asyncio
import pickle
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fleet
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from redis_server import RedisServer

pytest.importorskip("django", reason="Django is not installed (extra apps)")

from django.core.cache.backends.base import CacheKeyWarning
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished
from django.test.utils import override_settings
from django.utils.safestring import SafeString, mark_safe
from django_backends import PATIENT, SECRET, Async, Sync, adds, asks, counts, forget, until

from tiercache import CodecError, RemoteUnavailable
from tiercache.contrib.django import TierCache
from tiercache.contrib.django.backend import FOREVER, GENERATION
from tiercache.contrib.django.shared import CACHE_OPTIONS, DJANGO_OPTIONS, POLICY_OPTIONS
from tiercache.contrib.pickling import Pickled, freeze, pickling_cache, thaw
from tiercache.record import SIGNED, unpack

Make = Callable[..., Any]


@pytest.fixture
def make(redis_server: RedisServer, namespace: str) -> Iterator[Make]:
    """Makes backends of one namespace; `process` tells those apart that stand for different processes."""
    before = set(threading.enumerate())

    def made(process: int = 0, location: Any = redis_server.url, **params: Any) -> TierCache:
        options = {**PATIENT, "namespace": namespace, "MAX_ENTRIES": 1000 + process, **params.pop("OPTIONS", {})}
        return TierCache(location, {**params, "OPTIONS": options})

    yield made
    forget()
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("tiercache-")]
    for thread in left:
        thread.join(30)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture(params=[Sync, Async])
def cache(request: pytest.FixtureRequest, make: Make) -> Iterator[Any]:
    face = request.param(make())
    yield face
    face.end()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


def life(client: redis.Redis, namespace: str, key: str) -> float:
    """Seconds that Redis keeps a key of Django's for."""
    [name] = client.keys(f"tc1:{{{namespace}:*:{key}}}:v")
    return client.pttl(name) / 1000


# The API, held against Django's own.

keys = st.sampled_from(["a", "b", "ä", "k" * 220])
values = st.sampled_from([None, True, 0, 7, 1.5, "x", b"\0", (1, [2]), {"a": {1}}, ["l"], Ellipsis, mark_safe("<b>")])
timeouts = st.sampled_from([{}, {"timeout": None}, {"timeout": 0}, {"timeout": -5}, {"timeout": 90}, {"timeout": 99.5}])
versions = st.sampled_from([{}, {"version": 1}, {"version": 2}])
some = st.lists(keys, max_size=3)


def step(*names: str, with_timeout: bool = False, **arguments: Any) -> Any:
    return st.tuples(
        st.sampled_from(names), st.builds(dict, **arguments), versions, timeouts if with_timeout else st.just({})
    )


steps = st.lists(
    st.one_of(
        step("set", "add", with_timeout=True, key=keys, value=values),
        step("get_or_set", with_timeout=True, key=keys, default=values),
        step("get", key=keys, default=st.sampled_from([None, "no"])),
        step("touch", with_timeout=True, key=keys),
        step("delete", "has_key", key=keys),
        step("incr", "decr", key=keys, delta=st.sampled_from([1, -3, 0.5])),
        step("incr_version", "decr_version", key=keys),
        step("get_many", "delete_many", keys=some),
        step("set_many", with_timeout=True, data=st.dictionaries(keys, values, max_size=3)),
        st.just(("clear", {}, {}, {})),
    ),
    max_size=30,
)


class Reference(LocMemCache):
    """Django's own, but for one oddity: it says that it deleted what had ended long before."""

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self.has_key(key, version) and super().delete(key, version)


def outcome(face: Any, name: str, arguments: dict[str, Any]) -> Any:
    try:
        answer = getattr(face, name)(**arguments)
    except (TypeError, ValueError) as error:
        return type(error)
    return type(answer), answer


def test_it_answers_as_locmem_does(
    make: Make, amount: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """Any order of calls, in either colour, on either of two processes: the same answers and the same errors."""
    ours, theirs = make(TIMEOUT=100), Reference("parity", {"TIMEOUT": 100})
    colours = [Sync(ours), Async(ours)]
    calls = 0

    @examples(max_examples=amount(150, 3000), deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(steps, st.randoms(use_true_random=False))
    def run(calls_: Any, chance: Any) -> None:
        nonlocal calls
        ours.clear()
        theirs.clear()
        for name, arguments, version, timeout in calls_:
            given = {**arguments, **version, **timeout}
            assert outcome(chance.choice(colours), name, given) == outcome(theirs, name, given), (name, given)
            calls += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        run()
    colours[1].end()
    record_property("calls_compared_with_locmem", calls)


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


def test_what_cannot_be_pickled_is_said_at_once(cache: Any) -> None:
    """By pickle's own error, as with Django's backends, and nothing is stored."""
    for name, value in (("set", lambda: None), ("add", lambda: None), ("get_or_set", lambda: lambda: None)):
        with pytest.raises((pickle.PicklingError, AttributeError)):
            getattr(cache, name)("k", value)
    assert not cache.has_key("k")


def test_timeouts(cache: Any, client: redis.Redis, namespace: str) -> None:
    """Redis keeps a value as long as Django says; None is a year; incr keeps what is left, touch begins anew."""
    for timeout, seconds in ((50, 50.0), (90.5, 90.5), (None, FOREVER)):
        for write, jitter in (("set", 0), ("add", 0), ("get_or_set", 0.1)):
            cache.delete("k")
            getattr(cache, write)("k", 1, timeout)
            assert seconds * (1 - jitter) - 30 < life(client, namespace, "k") <= seconds
            cache.incr("k")
            assert seconds * (1 - jitter) - 30 < life(client, namespace, "k") <= seconds
    cache.touch("k", 70)
    assert 40 < life(client, namespace, "k") <= 70
    assert cache.get("k") == 2
    cache.set("k", 1)
    assert 270 < life(client, namespace, "k") <= 300
    assert cache.backend.get_backend_timeout(10**12) == FOREVER


def test_values_end(cache: Any, make: Make) -> None:
    """When their time is over, for everybody, and a new one can be added."""
    cache.set("k", "old", 0.2)
    cache.set_many({"a": 1, "b": 2}, 0.2)
    other = make(1)
    until(lambda: not any((cache.has_key("k"), cache.get_many(["a", "b"]), other.get_many(["k", "a", "b"]))))
    assert cache.add("k", "new")
    assert not cache.touch("a")


def test_keys_are_checked_and_warned_of(cache: Any) -> None:
    """By Django's own rules; a key function may return anything."""
    for name, *arguments in (("get", "a b"), ("set", "a b", 1), ("add", "a b", 1), ("delete", "a b"), ("touch", "a b")):
        with pytest.warns(CacheKeyWarning, match="a b"):
            getattr(cache, name)(*arguments)
    for name, argument in (("get_many", ["a b"]), ("set_many", {"a b": 1}), ("delete_many", ["a b"])):
        with pytest.warns(CacheKeyWarning, match="a b"):
            getattr(cache, name)(argument)
    with pytest.warns(CacheKeyWarning, match="a b"), pytest.raises(ValueError, match="not found"):
        cache.incr("a b")
    cache.backend.key_func = lambda key, prefix, version: mark_safe(f"#{key}")
    cache.set("", "with an empty key")
    assert cache.get("") == "with an empty key"
    cache.backend.key_func = lambda key, prefix, version: ""
    cache.set("any", 1)
    assert cache.get("other") == 1


def test_prefixes_versions_and_key_functions(make: Make) -> None:
    """They go by Django's make_key, so entries of one backend are found by another with the same rules."""
    plain, prefixed, second = make(), make(KEY_PREFIX="p"), make(VERSION=2)
    own = make(KEY_FUNCTION=lambda key, prefix, version: f"own-{key}")
    plain.set("k", "plain")
    assert [each.get("k") for each in (prefixed, second, own)] == [None, None, None]
    second.set("k", "second")
    own.set("k", "own")
    prefixed.set("k", "prefixed")
    assert plain.get("k", version=2) == "second"
    assert [each.get("k") for each in (plain, prefixed, second, own)] == ["plain", "prefixed", "second", "own"]


# The fleet.


def members(work: Any, server: RedisServer, namespace: str, *args: Any) -> list[fleet.Member]:
    started = [fleet.Member(work, server.url, namespace, *args) for _ in range(3)]
    for member in started:
        assert member.hear() == "ready"
    for member in started:
        member.tell("go")
    return started


def test_of_many_adds_one_is_first(
    redis_server: RedisServer, namespace: str, amount: Callable[[int, int], int], record_property: Any
) -> None:
    """And of many deletes one; whoever is told True was the only one."""
    rounds = amount(100, 2000)
    started = members(adds, redis_server, namespace, rounds)
    for member in started:
        assert member.hear() == "ready"
    for member in started:
        member.tell("go")
    won = [member.hear() for member in started]
    for member in started:
        member.end()
    assert sum(each["add"] for each in won) == rounds
    assert sum(each["delete"] for each in won) == rounds
    record_property("adds_and_deletes_raced", 6 * rounds)


def test_no_increment_is_lost(
    redis_server: RedisServer, namespace: str, make: Make, amount: Callable[[int, int], int], record_property: Any
) -> None:
    """Three processes, each with two threads and an event loop."""
    rounds = amount(50, 1000)
    backend = make()
    backend.set("n", 0)
    started = members(counts, redis_server, namespace, rounds)
    for member in started:
        assert member.hear(120) == "done"
        member.end()
    assert backend.incr("n", 0) == 9 * rounds
    record_property("increments_raced", 9 * rounds)


def test_a_herd_calls_the_default_once(redis_server: RedisServer, namespace: str, client: redis.Redis) -> None:
    """Threads and tasks of three processes get one and the same value, and nobody went around the lease."""
    started = members(asks, redis_server, namespace, 20)
    for member in started:
        found, stats = member.hear()
        member.end()
        assert found == [["the value"]] * 40
        assert not {name: n for name, n in stats.items() if name.startswith("bypass_") and n}
    assert client.getdel(f"calls:{namespace}") == b"1"


def test_clear_is_heard_by_all(cache: Any, make: Make) -> None:
    """Every process loses every value of the namespace, whatever its prefix; another namespace keeps its own."""
    other, prefixed = make(1), make(KEY_PREFIX="p")
    elsewhere = make(OPTIONS={"namespace": "elsewhere"})
    for backend in (cache.backend, prefixed, elsewhere):
        backend.set("k", "old", None)
    assert other.get("k") == "old"
    cache.clear()
    assert cache.get("k") is None
    assert prefixed.get("k") is None
    until(lambda: other.get("k") is None)
    assert other.add("k", "new")
    assert cache.get("k") == "new"
    assert elsewhere.get("k") == "old"


def test_a_load_begun_before_clear_or_delete_stores_nothing(make: Make) -> None:
    """Its own caller gets the value; who comes later loads anew."""
    for fence in ("clear", "delete"):
        backend, other = make(), make(1)
        loading, go = threading.Event(), threading.Event()
        got: list[Any] = []

        def load(loading: threading.Event = loading, go: threading.Event = go) -> str:
            loading.set()
            assert go.wait(60)
            return "old"

        caller = threading.Thread(target=lambda load=load, got=got: got.append(make().get_or_set("k", load)))
        caller.start()
        assert loading.wait(60)
        other.clear() if fence == "clear" else other.delete("k")
        until(lambda backend=backend: backend.get("k") is None)
        go.set()
        caller.join(60)
        assert got == ["old"]
        until(lambda other=other: other.get_or_set("k", lambda: "new") == "new")
        until(lambda backend=backend: backend.get("k") == "new")
        backend.clear()


def test_a_lost_generation_is_replaced_for_all(make: Make, client: redis.Redis, namespace: str) -> None:
    """If Redis evicts it, whoever misses it makes another, and everybody hears: nobody deletes beside the others."""
    first, second = make(), make(1)
    first.set("k", "old")
    assert second.get("k") == "old"
    client.delete(f"tc1:{{{namespace}:{GENERATION}}}:v")
    third = make(2)
    third.set("k", "new")
    until(lambda: first.get("k") == second.get("k") == "new")
    assert first.delete("k")
    until(lambda: second.get("k") is None)


def test_the_failure_of_a_default_is_shared(cache: Any) -> None:
    """It is raised to whoever asks until its pause ends, and nothing is stored."""
    calls: list[int] = []

    def default() -> None:
        calls.append(1)
        raise LookupError("no such row")

    for _ in range(3):
        with pytest.raises(LookupError, match="no such row"):
            cache.get_or_set("k", default)
    assert 1 <= len(calls) < 3
    assert cache.get("k", "no") == "no"


def test_defaults_of_every_kind(make: Make) -> None:
    """A coroutine function, a callable that returns an awaitable, a plain one; sync get_or_set refuses the first."""
    backend = make()

    async def default() -> list[int]:
        await asyncio.sleep(0)
        return [1]

    async def main() -> None:
        assert await backend.aget_or_set("a", default) == [1]
        assert await backend.aget_or_set("b", lambda: default()) == [1]
        assert await backend.aget_or_set("c", lambda: [1]) == [1]
        assert await backend.aget_or_set("d", default, 0) == [1]
        assert await backend.aget_or_set("e", lambda: [1], 0) == [1]
        assert await backend.aget_many("abcde") == {"a": [1], "b": [1], "c": [1]}

    asyncio.run(main())
    with pytest.raises(TypeError, match="aget_or_set"):
        backend.get_or_set("f", default)


# Pickles and signatures.


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
    monkeypatch.delattr("test_django_cache.Point")
    other = make(1)
    assert other.get("k", "nothing") == "nothing"
    assert other.get_or_set("k", "new") == "new"
    assert make(2).get("k") == "new"


# Settings and outages.


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
    """Each has its place in the table of docs/django.md, and nothing else has."""
    page = (Path(__file__).parents[1] / "docs" / "django.md").read_text(encoding="utf-8")
    table = page.partition("### Options\n")[2].partition("\n## ")[0]
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
