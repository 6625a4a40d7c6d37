"""Signed records: whatever somebody without a key writes to Redis, nobody who has one takes it for a value."""

import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
import redis
from both import FACES
from hypothesis import given
from hypothesis import strategies as st
from redis_server import PATIENT, RedisServer

from tiercache import Cache, CodecError, LoadFailed, MsgpackCodec, Policy, PolicyError
from tiercache.local.record import ERROR, NONE, VALUE, Record, unpack
from tiercache.remote.commands import Names
from tiercache.signing import TAG_SIZE, Signer
from tiercache.values import Values

KEY, OTHER_KEY = b"a key of the fleet's own", b"somebody else's idea of a key"
EVERY_READ_ASKS = Policy(local_ttl=1e-6, beta=0)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def make_face(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Iterator[Callable[..., Any]]:
    faces = []

    def make(sign_with: Any = KEY, **settings: Any) -> Any:
        faces.append(request.param(make_cache(sign_with=sign_with, **{**PATIENT, **settings})))
        return faces[-1]

    yield make
    for face in faces:
        face.close()


class Loader:
    def __init__(self, value: Any = "loaded") -> None:
        self.value, self.runs = value, 0

    def __call__(self) -> Any:
        self.runs += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def until(done: Callable[[], Any]) -> Any:
    """What `done` gives once it is true; it is asked until then."""
    end = time.monotonic() + 60
    while not (result := done()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)
    return result


def values(*keys: bytes, namespace: str = "ns") -> Values:
    return Values(MsgpackCodec(), "zlib", 50, 10_000, Signer(keys, namespace) if keys else None)


def packed(signed_by: Values, value: Any = "genuine", key: str = "k") -> Record:
    return signed_by.pack(key, value, id=b"12345678", fresh=20.0, hard=40.0, delta=0.005)[0]


# The tag itself.


@given(
    st.one_of(st.none(), st.text(max_size=200), st.lists(st.integers(), max_size=50), st.binary(max_size=200)),
    st.data(),
)
def test_a_signed_record_that_was_changed_is_refused_or_says_the_same(value: Any, data: st.DataObject) -> None:
    """Bytes changed, cut out or put in anywhere: no record, refused, or no more than the soft-invalid bit."""
    fleet = values(KEY)
    record = packed(fleet, value)
    raw = bytearray(record.pack())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        what = data.draw(st.sampled_from(["bit", "byte", "cut", "put", "length"]))
        if what == "bit":
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "byte":
            raw[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del raw[at : at + data.draw(st.integers(1, 20))]
        else:
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        if len(raw) < 38:
            return
        if what == "length":  # whoever changes a record can make its length fit
            raw[26:30] = (len(raw) - 38).to_bytes(4)
    found = unpack(bytes(raw))
    if found is None:
        return
    try:
        fleet.verify("k", found)
    except CodecError:
        return
    assert found._replace(soft_invalid=False) == record
    assert fleet.open(found, Policy())[0] == value


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), st.sampled_from(["ns", "n", "ns2", "s"]))
def test_a_tag_is_good_for_one_key_of_one_namespace(key: str, other: str, namespace: str) -> None:
    """However the names are cut in two, or one goes on where the other ends."""
    record = packed(values(KEY), key=key)
    for name, where in ((other, "ns"), (key, namespace), (other, namespace)):
        if (name, where) == (key, "ns"):
            values(KEY, namespace=where).verify(name, record)
        else:
            with pytest.raises(CodecError, match="signature"):
                values(KEY, namespace=where).verify(name, record)


@given(st.binary(max_size=80))
def test_a_tag_guessed_or_cut_is_refused(noise: bytes) -> None:
    """A record that calls itself signed and has any bytes for payload and tag, or too few."""
    record = packed(values())._replace(payload=noise, signed=True)
    with pytest.raises(CodecError, match="signature"):
        values(KEY).verify("k", record)
    with pytest.raises(CodecError, match="signature"):
        values(KEY, OTHER_KEY).verify("k", record)


def test_keys_of_any_length_are_different_keys() -> None:
    """One bit or one zero byte more is another key, however long it is."""
    keys = [b"\0" * 16, b"\0" * 17, b"\0" * 64, b"\0" * 65, b"\0" * 1000, b"\0" * 999 + b"\1"]
    for signing in keys:
        record = packed(values(signing))
        for believed in keys:
            if believed is signing:
                values(believed).verify("k", record)
            else:
                with pytest.raises(CodecError):
                    values(believed).verify("k", record)


def test_every_field_is_under_the_tag() -> None:
    """All of a record but its soft-invalid bit."""
    fleet = values(KEY)
    record = packed(fleet)
    changes: dict[str, Any] = {
        "kind": NONE, "codec": 2, "compression": 1, "fresh_ms": 1, "hard_ms": 40_001, "delta_ms": 0, "id": b"87654321",
        "payload": record.payload[:-1] + bytes([record.payload[-1] ^ 1]), "signed": False,
    }  # fmt: skip
    assert {*changes, "soft_invalid"} == set(Record._fields)
    for name, value in changes.items():
        with pytest.raises(CodecError):
            fleet.verify("k", record._replace(**{name: value}))
    fleet.verify("k", record._replace(soft_invalid=True))


def test_values_say_whether_they_are_signed() -> None:
    """For codecs that may only be used then."""
    assert values(KEY).signed
    assert not values().signed
    with Cache(sign_with=KEY) as cache:
        assert cache._process.node.values.signed


# The setting.


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", PolicyError), (b"hush-hush-hush!", PolicyError), ([], PolicyError), ([KEY, b"hush"], PolicyError),
        ("hush" * 8, TypeError), (["hush" * 8], TypeError), ({KEY}, TypeError), (bytearray(KEY), TypeError),
        (5, TypeError), ([KEY, None], TypeError), ({KEY: "hush"}, TypeError),
    ],
)  # fmt: skip
def test_a_key_that_is_none_is_refused_and_not_shown(value: Any, error: type[Exception]) -> None:
    """The error names the setting; a key shorter than 16 bytes is a ValueError."""
    with pytest.raises(error, match=r"^sign_with") as refused:
        Cache(sign_with=value)
    assert "hush" not in str(refused.value)
    assert isinstance(refused.value, (ValueError, TypeError))
    assert refused.value.__context__ is None


# Through the whole cache.


def planted(namespace: str) -> dict[str, bytes]:
    """What somebody may write under "k": forged, moved from elsewhere, or changed."""
    fleet, record = values(KEY, namespace=namespace), packed(values(KEY, namespace=namespace))
    bare = packed(values())
    made: dict[str, Record] = {
        "unsigned": bare,
        "unsigned None": bare._replace(kind=NONE, payload=b""),
        "signed with another key": packed(values(OTHER_KEY, namespace=namespace)),
        "of another key": packed(fleet, key="k2"),
        "of another namespace": packed(values(KEY, namespace=namespace + "x")),
        "flag taken away": record._replace(payload=record.payload[:-TAG_SIZE], signed=False),
        "flag alone": bare._replace(signed=True),
        "no payload and no tag": bare._replace(signed=True, payload=b""),
        "tag cut": record._replace(payload=record.payload[:-1]),
        "tag cut to a byte": record._replace(payload=record.payload[: -TAG_SIZE + 1]),
        "longer fresh": record._replace(fresh_ms=39_000),
        "longer life": record._replace(fresh_ms=4_000_000, hard_ms=4_000_000),
        "other id": record._replace(id=b"87654321"),
        "a value made None": record._replace(kind=NONE),
        "a value made an error": record._replace(kind=ERROR),
        "other payload": record._replace(payload=bare.payload.upper() + record.payload[-TAG_SIZE:]),
        "a bomb": bare._replace(compression=1, payload=zlib.compress(bytes(10**7)) + bytes(TAG_SIZE), signed=True),
    }
    return {name: record.pack() for name, record in made.items()}


@pytest.mark.parametrize("name", planted("ns"))
def test_a_planted_record_is_a_miss_that_is_loaded_anew(
    make_face: Any, client: redis.Redis, namespace: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By get, get_many and get_or_load; one load replaces it, and the next process believes that."""
    client.set(Names(namespace).value("k"), planted(namespace)[name], px=60_000)
    cache, loader = make_face(), Loader()
    with caplog.at_level(logging.WARNING, "tiercache"):
        assert cache.get("k", "default") == "default"
        assert cache.get_many(["k"]) == {}
        assert cache.get_or_load("k", cache.loader(loader)) == "loaded"
    stats = cache.stats()
    assert stats["undecodable"] == 3
    assert (stats["grants"], stats["commits"], stats["loads"]) == (1, 1, 1)
    [text] = caplog.messages
    assert "'k'" in text
    assert "sign" in text  # it was not decompressed or decoded first
    other = make_face()
    assert other.get_or_load("k", other.loader(loader)) == "loaded"
    assert (loader.runs, other.stats()["undecodable"]) == (1, 0)


def test_the_same_records_are_believed_where_nobody_asks_for_signatures(
    make_face: Any, client: redis.Redis, namespace: str
) -> None:
    """The test above tests the signature: without keys, most of them are values."""
    cache, seen = make_face(sign_with=None), {}
    for name, raw in planted(namespace).items():
        client.set(Names(namespace).value(name), raw, px=60_000)
        seen[name] = cache.get(name, "default")
    believed = {name for name, value in seen.items() if value != "default"}
    assert believed >= {"unsigned", "unsigned None", "signed with another key", "of another key", "longer life"}
    assert seen["longer fresh"] == seen["other id"] == "genuine"


def test_signed_values_of_every_kind_come_back(make_face: Any, client: redis.Redis, namespace: str) -> None:
    """Small, compressed and staged ones, None and negative errors, written by set and by loads."""
    settings = {"compress": "zlib", "policy": Policy(negative_errors=(KeyError,), beta=0)}
    writer = make_face(**settings)
    kinds = {"small": 1, "compressed": "x" * 20_000, "staged": os.urandom(100_000), "none": None, "long" * 100: "key"}
    for key, value in kinds.items():
        assert writer.get_or_load(key, writer.loader(Loader(value))) == value
        writer.set("set " + key, value)
    with pytest.raises(KeyError):
        writer.get_or_load("error", writer.loader(Loader(KeyError("gone"))))
    reader, never = make_face(**settings), Loader(RuntimeError("it was loaded again"))
    for key, value in kinds.items():
        assert reader.get_or_load(key, reader.loader(never)) == value
    with pytest.raises(KeyError, match="gone"):
        reader.get_or_load("error", reader.loader(never))
    wanted = {"set " + key: value for key, value in kinds.items()}
    assert make_face(**settings).get_many(list(wanted)) == wanted
    assert reader.stats()["undecodable"] == 0
    for name in client.scan_iter(f"tc1:{{{namespace}:*:v"):
        assert client.getrange(name, 5, 5)[0] & 0x40, name


def test_a_key_is_changed_without_a_load(make_face: Any) -> None:
    """First every process believes the new one, then it signs, then the old one goes."""
    loader = Loader()
    old, both, new = make_face([KEY, OTHER_KEY]), make_face([OTHER_KEY, KEY]), make_face(OTHER_KEY)
    assert old.get_or_load("k", old.loader(loader)) == "loaded"
    assert both.get_or_load("k", both.loader(loader)) == "loaded"
    both.set("k2", "by the new key")
    assert old.get("k2") == new.get("k2") == "by the new key"
    assert loader.runs == 1
    assert (new.get("k"), new.stats()["undecodable"]) == (None, 1)


def test_a_fleet_takes_up_signing_step_by_step(make_face: Any) -> None:
    """Who has no key reads signed records; who has one loads an unsigned one anew, once, and that one all can read."""
    before, after, loader = make_face(sign_with=None), make_face(), Loader()
    assert before.get_or_load("k", before.loader(loader)) == "loaded"
    assert after.get_or_load("k", after.loader(loader)) == "loaded"
    for cache in (before, after, make_face(sign_with=None), make_face()):
        cache.clear_local()
        assert cache.get_or_load("k", cache.loader(loader)) == "loaded"
    assert loader.runs == 2


def test_a_known_record_with_longer_lifetimes_is_not_known(make_face: Any, client: redis.Redis, namespace: str) -> None:
    """The entry here has its id, but the header that says how long it may serve is checked all the same."""
    cache, loader = make_face(policy=EVERY_READ_ASKS), Loader("old")
    assert cache.get_or_load("k", cache.loader(loader), ttl=60) == "old"
    name = Names(namespace).value("k")
    record = unpack(client.get(name))
    assert record is not None
    assert cache.get("k") == "old"
    client.set(name, record._replace(fresh_ms=10**12, hard_ms=10**12).pack(), px=10**12)
    assert cache.get("k") is None
    assert cache.stats()["undecodable"] == 1
    loader.value = "new"
    assert cache.get_or_load("k", cache.loader(loader), ttl=60) == "new"
    assert client.pttl(name) < 10**6


def test_a_signed_value_kept_for_errors_serves(make_face: Any, client: redis.Redis, namespace: str) -> None:
    """The script that sets the soft-invalid bit leaves the signature good."""
    make_face().set("k", "old")
    cache = make_face(policy=Policy(stale_if_error=60))
    cache.invalidate("k", keep_stale=True)
    assert cache.get("k") is None
    assert cache.get_or_load("k", cache.loader(Loader(OSError("down")))) == "old"
    assert cache.stats()["undecodable"] == 0


@pytest.mark.parametrize("size", [5_000, 300_000], ids=["fetched", "too large to be fetched"])
def test_a_signed_record_over_the_size_limit_is_loaded_anew(make_face: Any, size: int) -> None:
    """As without signatures."""
    make_face().set("k", os.urandom(size))
    cache, loader = make_face(max_value_bytes=1_000), Loader()
    assert cache.get("k", "default") == "default"
    assert cache.get_or_load("k", cache.loader(loader)) == "loaded"
    assert (loader.runs, cache.stats()["commits"]) == (1, 1)


# What is pushed.


def waiting(cache: Any, loader: Any, pool: ThreadPoolExecutor) -> Any:
    """A call of "k" that waits for another process's lease."""
    call = pool.submit(cache.get_or_load, "k", loader)
    until(lambda: cache.stats()["waits"])
    return call


@pytest.mark.parametrize("forged", [True, False], ids=["forged", "genuine"])
def test_a_pushed_value_is_believed_if_it_is_signed(
    make_face: Any, client: redis.Redis, namespace: str, forged: bool
) -> None:
    """Whoever knows the lease and the inbox can send a message, but no value."""
    # The lease is of nobody who loads; its waiters stand in it, for whoever can read it.
    names, token = Names(namespace), os.urandom(16)
    client.hset(names.lease("k"), mapping={b"t": token, b"n": 1})
    client.pexpire(names.lease("k"), 60_000)
    cache, loader = make_face(), Loader("by the waiter")
    signed_by = values(namespace=namespace) if forged else values(KEY, namespace=namespace)
    record = packed(signed_by, "pushed")._replace(id=token[:8]) if forged else packed(signed_by, "pushed")
    with ThreadPoolExecutor(1) as pool:
        call = waiting(cache, cache.loader(loader), pool)
        [inbox] = [field[2:] for field in client.hkeys(names.lease("k")) if field.startswith(b"w:")]
        client.delete(names.lease("k"))
        words = [b"k", token[:8], b"ready", record.pack()]
        assert client.publish(b"tc1:in:" + inbox, msgpack.packb(words)) == 1
        assert call.result(60) == ("by the waiter" if forged else "pushed")
    stats = cache.stats()
    assert (stats["undecodable"], stats["loads"]) == ((1, 1) if forged else (0, 0))
    assert cache.get("k") == ("by the waiter" if forged else "pushed")


def test_a_value_pushed_by_its_loader_needs_no_further_read(make_cache: Any, client: redis.Redis) -> None:
    """The signature travels with it."""
    one, other = make_cache(sign_with=KEY, **PATIENT), make_cache(sign_with=KEY, **PATIENT)
    other.ping()
    began, reads = [], []

    def load() -> str:
        began.append(1)
        until(lambda: other.stats()["waits"])
        reads.append(client.info("commandstats")["cmdstat_get"]["calls"])
        return "loaded"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.get_or_load, "k", load)
        until(lambda: began)
        second = pool.submit(other.get_or_load, "k", load)
        assert first.result(60) == second.result(60) == "loaded"
    assert client.info("commandstats")["cmdstat_get"]["calls"] == reads[0]
    assert (len(began), other.stats()["undecodable"]) == (1, 0)


# What is not signed does no more than it may.


def test_a_planted_failure_is_short_text(make_face: Any, client: redis.Redis, namespace: str) -> None:
    """It fails loads for the while that its TTL says; its words are cut and only shown."""
    name = Names(namespace).failure("k")
    words = {"reason": "failed", "type": "builtins.SystemExit" * 100, "message": "__import__('os')\0\r\n" * 10_000}
    client.hset(name, mapping={"count": 1, **words})
    client.pexpire(name, 120_000)
    cache, loader = make_face(), Loader()
    with pytest.raises(LoadFailed) as failed:
        cache.get_or_load("k", cache.loader(loader))
    assert len(failed.value.message) <= 200
    assert len(failed.value.type_name) <= 200
    assert failed.value.retry_after <= 60
    cache.invalidate("k")
    assert cache.get_or_load("k", cache.loader(loader)) == "loaded"


def test_many_planted_records_are_counted_and_told_once(
    make_face: Any, client: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who plants a thousand fills no log."""
    keys, bare = [f"k{n}" for n in range(1000)], packed(values()).pack()
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.set(Names(namespace).value(key), bare, px=60_000)
        pipe.execute()
    cache = make_face()
    with caplog.at_level(logging.WARNING, "tiercache"):
        assert cache.get_many(keys) == {}
    assert cache.stats()["undecodable"] == 1000
    assert len(caplog.records) == 1


def test_what_cannot_be_read_is_told_again_after_a_minute() -> None:
    """Not per record; the counter has them all."""
    fleet = values()
    assert [fleet.may_complain(now) for now in (0.0, 1.0, 59.9, 60.0, 61.0, 200.0)] == [
        True, False, False, True, False, True,
    ]  # fmt: skip
    assert packed(fleet).kind == VALUE
