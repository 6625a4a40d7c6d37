"""Records: their header, what an interposed write can do, and what is no record of ours, through the whole cache."""

import itertools
import logging
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from both import FACES
from hypothesis import example, given
from hypothesis import strategies as st
from redis_server import RedisServer
from tier2 import Tier2, a_record

from tiercache import Cache
from tiercache.codec import MsgpackCodec
from tiercache.local.record import ABSENT, ERROR, HEADER, NONE, VALUE, Record, found, milliseconds, unpack
from tiercache.remote.commands import Names

ENCODED = MsgpackCodec().encode("old")
CODEC = MsgpackCodec().id
LENGTH = struct.Struct(">I")
CHANGED: dict[str, Any] = {
    "kind": 3, "codec": 7, "compression": 2, "fresh_ms": 1, "hard_ms": 2, "delta_ms": 3, "id": b"87654321",
    "payload": b"other", "soft_invalid": True, "signed": True,
}  # fmt: skip


def stored(**changes: Any) -> Record:
    """A good record of "old", with changes."""
    return Record(VALUE, CODEC, 0, 20_000, 40_000, 5, b"12345678", ENCODED)._replace(**changes)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def tier(redis_server: RedisServer, namespace: str) -> Iterator[Tier2]:
    tier = Tier2(redis_server.url, namespace)
    yield tier
    tier.close()


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def make_face(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Iterator[Callable[..., Any]]:
    faces = []

    def make(**settings: Any) -> Any:
        faces.append(request.param(make_cache(**settings)))
        return faces[-1]

    yield make
    for face in faces:
        face.close()


class Loader:
    def __init__(self, value: Any = "new") -> None:
        self.value, self.runs = value, 0

    def __call__(self) -> Any:
        self.runs += 1
        return self.value


# The header.

records = st.builds(
    Record,
    kind=st.sampled_from([VALUE, NONE, ERROR, 255]),
    codec=st.integers(0, 255),
    compression=st.integers(0, 15),
    fresh_ms=st.integers(0, 2**64 - 1),
    hard_ms=st.integers(0, 2**64 - 1),
    delta_ms=st.integers(0, 2**32 - 1),
    id=st.binary(min_size=8, max_size=8),
    payload=st.binary(max_size=300),
    soft_invalid=st.booleans(),
)


@given(records)
def test_a_record_comes_back_as_it_went(record: Record) -> None:
    """Every field of the header, at its extremes too, and the payload."""
    assert unpack(record.pack()) == record


@given(records, st.data())
def test_a_record_cut_or_made_longer_is_none(record: Record, data: st.DataObject) -> None:
    """Its length says so."""
    packed = record.pack()
    assert unpack(packed[: data.draw(st.integers(0, len(packed) - 1))]) is None
    assert unpack(packed + data.draw(st.binary(min_size=1, max_size=20))) is None


def by_the_table(data: bytes) -> Record | None:
    """What the table of the format says, read by `struct`."""
    if len(data) < 38:
        return None
    magic, kind, codec, flags, fresh, hard, delta, length, id = struct.unpack_from(">3sBBBQQII8s", data)
    if magic != b"tc\x01" or len(data) != 38 + length:
        return None
    return Record(kind, codec, flags & 0x0F, fresh, hard, delta, id, data[38:], flags >= 0x80, flags & 0x40 != 0)


heads = st.builds(bytes.__add__, st.binary(min_size=23, max_size=23), st.sampled_from([0, 5, 2**24]).map(LENGTH.pack))
almost = st.builds(lambda head, rest: b"tc\x01" + head + rest, heads, st.binary(min_size=8, max_size=20))


@given(st.binary(max_size=100) | almost)
@example(b"")
@example(b"tc\x01" + bytes(35))
@example(b"tc\x01" + bytes(34))
@example(b"tc\x01" + b"\xff" * 35)
@example(b"tc\x02" + bytes(35))
def test_any_bytes_are_a_record_or_none(noise: bytes) -> None:
    """Nothing is raised, and a record is what the table of the format says."""
    assert unpack(noise) == by_the_table(noise)


@given(records, st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_ends_of_a_record_are_counted_from_when_it_was_asked_for(record: Record, sent: float, left: float) -> None:
    """By a clock of the reader's; it is never fresh longer than it lives, and its load time is within bounds."""
    fresh, hard, delta = record.ends(sent, left)
    assert hard == sent + left
    assert fresh == pytest.approx(min(hard, hard - (record.hard_ms - record.fresh_ms) / 1000))
    assert fresh <= hard
    assert delta == min(max(record.delta_ms / 1000, 0.001), record.fresh_ms / 1000 / 4)


@given(records, st.integers(-5, 2**63 - 1))
def test_what_is_found_lives_as_long_as_redis_and_the_record_say(record: Record, left: int) -> None:
    """The shorter of both; it is fresh no longer than it lives. Without a lifetime there is nothing."""
    seen = found(left, record.pack())
    assert seen is not None
    assert seen.remaining == (min(left, record.hard_ms) / 1000 if left > 0 else 0.0)
    assert seen.record == (record._replace(fresh_ms=min(record.fresh_ms, record.hard_ms)) if left > 0 else None)


@pytest.mark.parametrize(
    ("left", "data"),
    [(True, stored().pack()), (b"1", stored().pack()), (None, stored().pack()), (1, None), (1, 1), (1, [])],
)
def test_other_replies_are_no_record(left: Any, data: Any) -> None:
    """Whatever they are: it is absent."""
    assert found(left, data) is ABSENT


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": NONE},
        {"kind": ERROR},
        {"codec": CODEC + 1},
        {"compression": 1},
        {"signed": True},
        {"payload": bytes(9)},
    ],
)
def test_a_plain_payload_needs_decoding_alone(changes: dict[str, Any]) -> None:
    """Not one of another kind or codec, compressed, signed or too long."""
    assert stored().plain(CODEC, 8) == stored(soft_invalid=True).plain(CODEC, 8) == ENCODED
    assert stored(payload=bytes(8)).plain(CODEC, 8) == bytes(8)
    assert stored(**changes).plain(CODEC, 8) is None
    assert stored().plain("msgpack", 8) is None  # type: ignore[arg-type]


@given(st.floats(-1e9, 1e9) | st.integers(-10, 10).map(lambda n: n / 2000))
def test_seconds_are_stored_in_whole_milliseconds(seconds: float) -> None:
    """As Python rounds them; what is over lasts no time."""
    assert milliseconds(seconds) == max(0, round(seconds * 1000))


@given(records, st.data())
def test_records_are_equal_if_all_their_fields_are(record: Record, data: st.DataObject) -> None:
    """One field changed is another record; a copy is the same."""
    name, value = data.draw(st.sampled_from([*CHANGED.items()]))
    assert record._replace() == record
    assert hash(record._replace()) == hash(record)
    changed = record._replace(**{name: value})
    assert (changed == record) == (getattr(record, name) == value)
    assert record != "a record"
    assert f"{name}={value!r}" in repr(changed)


@pytest.mark.parametrize(
    "changes", [{"kind": 256}, {"codec": -1}, {"fresh_ms": 2**64}, {"hard_ms": -1}, {"delta_ms": 2**32},
                {"id": None}, {"payload": "x"}],
    ids=repr,
)  # fmt: skip
def test_a_record_has_room_for_what_its_bytes_have_room_for(changes: dict[str, Any]) -> None:
    """Anything else is an error where it is made."""
    with pytest.raises((TypeError, OverflowError)):
        stored(**changes)


def test_the_header_is_where_the_scripts_look_for_it() -> None:
    """Magic, flags, length and id at the offsets that stand in the Lua texts."""
    packed = stored(soft_invalid=True, compression=2, payload=b"x" * 7).pack()
    assert HEADER.size == 38
    assert packed[:3] == b"tc\x01"
    assert packed[5] == 0x80 + 2
    assert struct.unpack(">I", packed[26:30]) == (7,)
    assert packed[30:38] == b"12345678"


# A write between PTTL and GET.


def interposed(tier: Tier2, between: Callable[[], object]) -> Any:
    tier.io.between = between
    return tier.read("k")


def test_an_old_lifetime_never_lengthens_a_new_value(tier: Tier2) -> None:
    """PTTL saw a long-lived record, GET a short-lived one: its own lifetime bounds it."""
    tier.write_many([("k", a_record(b"old old!", fresh=500_000, hard=1_000_000))])
    short = a_record(b"new new!", fresh=1_000, hard=2_000)
    found = interposed(tier, lambda: tier.write_many([("k", short)]))
    assert found.record == short
    assert found.remaining <= 2.0


def test_a_new_value_gets_at_most_the_old_ones_rest(tier: Tier2) -> None:
    """PTTL saw a record near its end, GET a new one: it is refreshed early, and that is all."""
    tier.write_many([("k", a_record(b"old old!", fresh=1_000, hard=2_000))])
    long = a_record(b"new new!", fresh=500_000, hard=1_000_000)
    found = interposed(tier, lambda: tier.write_many([("k", long)]))
    assert found.record == long
    assert found.remaining <= 2.0


def test_a_value_that_comes_or_goes_in_between_is_absent(tier: Tier2) -> None:
    """No PTTL, or no value: nothing was found."""
    assert interposed(tier, lambda: tier.write_many([("k", a_record(b"new new!"))])).record is None
    assert interposed(tier, lambda: tier.invalidate(["k"], False)).record is None


def test_an_old_value_never_has_a_new_ones_lifetime(tier: Tier2) -> None:
    """Whatever pair of lifetimes meets: what is read lives no longer than its own hard lifetime, nor than PTTL said."""
    lifetimes = (1_000, 3_000, 90_000)
    for before, after in itertools.product(lifetimes, repeat=2):
        tier.write_many([("k", a_record(b"old old!", fresh=before, hard=before))])
        record = a_record(b"new new!", fresh=after, hard=after)
        found = interposed(tier, lambda: tier.write_many([("k", record)]))  # noqa: B023  # called at once
        assert found.record == record
        assert found.remaining <= min(before, after) / 1000
    assert tier.read("k").remaining > 80


# What stands under our name and is none of ours, through the whole cache.

UNREADABLE = {
    "empty": b"",
    "foreign text": b"a string of somebody else's that is longer than a header is",
    "half a header": stored().pack()[:20],
    "truncated": stored().pack()[:-1],
    "too long": stored().pack() + b"x",
    "another format": b"tc\x02" + stored().pack()[3:],
    "unknown kind": stored(kind=7).pack(),
    "unknown codec": stored(codec=CODEC + 1).pack(),
    "unknown compression": stored(compression=9).pack(),
    "broken payload": stored(payload=b"\xc1").pack(),
    "payload cut": stored(payload=ENCODED[:-1]).pack(),
    "not compressed": stored(compression=1).pack(),
    "compression cut": stored(compression=1, payload=zlib.compress(ENCODED)[:-3]).pack(),
    "bomb": stored(compression=1, payload=zlib.compress(b"\xc6" + struct.pack(">I", 10**7) + bytes(10**7))).pack(),
    "negative answer of another program": stored(kind=ERROR).pack(),
    "no payload": stored(payload=b"").pack(),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_record_is_a_miss_that_is_loaded_anew(
    make_face: Any, client: redis.Redis, namespace: str, name: str
) -> None:
    """`get` gives the default, one load replaces it, the next process finds what was loaded; it is counted."""
    place = Names(namespace).value("k")
    client.set(place, UNREADABLE[name], px=60_000)
    cache, loader = make_face(max_value_bytes=100_000), Loader()
    assert cache.get("k", "default") == "default"
    assert cache.get_many(["k"]) == {}
    assert cache.get_or_load("k", cache.loader(loader)) == "new"
    stats = cache.stats()
    assert stats["undecodable"] >= 3
    assert (stats["grants"], stats["commits"], stats["loads"]) == (1, 1, 1)
    other = make_face()
    assert other.get("k") == "new"
    assert other.get_or_load("k", other.loader(loader)) == "new"
    assert loader.runs == 1


def test_a_record_whose_own_lifetime_is_over_is_a_miss(make_face: Any, client: redis.Redis, namespace: str) -> None:
    """Though Redis still keeps it."""
    client.set(Names(namespace).value("k"), stored(fresh_ms=0, hard_ms=0).pack(), px=60_000)
    cache, loader = make_face(), Loader()
    assert cache.get("k") is None
    assert cache.get_or_load("k", cache.loader(loader)) == "new"
    assert cache.get("k") == "new"


def test_a_record_without_a_ttl_is_a_miss_that_is_loaded_anew(
    make_face: Any, client: redis.Redis, namespace: str
) -> None:
    """Nobody of ours writes one; afterwards it has a TTL."""
    place = Names(namespace).value("k")
    client.set(place, stored().pack())
    cache, loader = make_face(), Loader()
    assert cache.get("k") is None
    assert cache.get_or_load("k", cache.loader(loader)) == "new"
    assert client.pttl(place) > 0
    assert cache.stats()["commits"] == 1


@pytest.mark.parametrize(("fresh", "hard"), [(2**64 - 1, 5_000), (2**40, 5_000), (2**64 - 1, 2**64 - 1)])
def test_no_lifetime_in_a_record_outlives_redis_own(
    make_face: Any, client: redis.Redis, namespace: str, fresh: int, hard: int
) -> None:
    """A record that claims to be fresh for ages is served while its key lives, not longer."""
    place = Names(namespace).value("k")
    client.set(place, stored(fresh_ms=fresh, hard_ms=hard).pack(), px=300)
    cache, loader = make_face(), Loader()
    assert cache.get("k") in ("old", None)
    while client.exists(place):
        pass
    assert cache.get("k") is None
    assert cache.get_or_load("k", cache.loader(loader)) == "new"


@pytest.mark.parametrize("size", [5_000, 300_000], ids=["fetched", "too large to be fetched"])
def test_a_record_over_the_size_limit_is_a_miss_that_is_loaded_anew(make_face: Any, size: int) -> None:
    """Written by a process with a larger limit; in a batch the others are found all the same."""
    large = make_face()
    large.set("k", b"x" * size)
    large.set_many({f"k{n}": n for n in range(20)})
    cache, loader = make_face(max_value_bytes=1_000, call_budget=10, call_timeout=5), Loader()
    assert cache.get("k", "default") == "default"
    assert cache.get_many(["k", *(f"k{n}" for n in range(20))]) == {f"k{n}": n for n in range(20)}
    assert cache.get_or_load("k", cache.loader(loader)) == "new"
    stats = cache.stats()
    assert stats["undecodable"] >= 3
    assert (stats["commits"], stats["breaker_opened"], stats["bypass_unanswered"]) == (1, 0, 0)
    assert make_face().get("k") == "new"


FOREIGN = {
    "list": lambda client, name: client.rpush(name, "a"),
    "set": lambda client, name: client.sadd(name, "a"),
    "stream": lambda client, name: client.xadd(name, {"a": "b"}),
    "string": lambda client, name: client.set(name, "a"),
    "hash": lambda client, name: client.hset(name, "a", "b"),
}


@pytest.mark.parametrize(
    ("place", "kind"),
    [(place, kind) for place, ours in (("value", "string"), ("lease", "hash"), ("failure", "hash"))
     for kind in FOREIGN if kind != ours],
)  # fmt: skip
def test_a_foreign_type_is_a_bypass_and_is_never_touched(
    make_face: Any, client: redis.Redis, namespace: str, place: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every load is counted as refused, one warning says why; `set` refuses, `invalidate` clears what is ours."""
    name = getattr(Names(namespace), place)("k")
    FOREIGN[kind](client, name)
    before = client.dump(name)
    cache, loader = make_face(), Loader()
    with caplog.at_level(logging.WARNING, "tiercache"):
        for run in (1, 2, 3):
            assert cache.get("k", "default") == "default"
            assert cache.get_many(["k"]) == {}
            assert cache.get_or_load("k", cache.loader(loader)) == "new"
            assert loader.runs == cache.stats()["bypass_refused"] == run
            assert cache.get_or_load("k", cache.loader(loader)) == "new"
            assert loader.runs == run  # it is kept here
            cache.clear_local()
        with pytest.raises(Exception, match="WRONGTYPE"):
            cache.set("k", "x")
        cache.invalidate("k")
        cache.invalidate("k", keep_stale=True)
    assert [text.split(":")[0] for text in caplog.messages] == [
        "Redis refuses with WRONGTYPE (not repeated while it lasts)"
    ]
    assert client.dump(name) == before
    assert client.pttl(name) == -1


def test_values_stay_readable_beside_a_foreign_lease(make_face: Any, client: redis.Redis, namespace: str) -> None:
    """Only electing needs the lease; and an invalidation removes the value."""
    make_face().set("k", "here")
    client.set(Names(namespace).lease("k"), "foreign")
    cache = make_face()
    assert cache.get("k") == "here"
    assert cache.get_or_load("k", cache.loader(Loader())) == "here"
    cache.invalidate("k")
    assert cache.get("k") is None
    assert client.get(Names(namespace).lease("k")) == b"foreign"


def test_records_of_another_namespace_or_format_are_never_seen(make_face: Any, client: redis.Redis) -> None:
    """The names keep them apart."""
    one, other = make_face(namespace="one"), make_face(namespace="other")
    one.set("k", 1)
    assert other.get("k") is None
    other.invalidate("k")
    assert make_face(namespace="one").get("k") == 1
