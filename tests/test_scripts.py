"""The scripts on real servers, every branch of each, by way of the client that calls them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis
from redis_server import RedisServer
from tier2 import Ear, Tier2, a_lease, a_record, servers

from tiercache.local.record import unpack
from tiercache.policy import Policy
from tiercache.port import Busy, Cooldown, Granted, Hit, Lease, RemoteRefused
from tiercache.remote.commands import INLINE, Names, wire_key
from tiercache.remote.links import Unanswered
from tiercache.remote.resp import Refusal

LARGE = b"x" * (INLINE + 1)
POLICY = Policy(error_backoff=0.5, error_backoff_max=1.5)


@pytest.fixture(scope="module", params=servers())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(executable=request.param) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@pytest.fixture
def tier(server: RedisServer, namespace: str) -> Iterator[Tier2]:
    tier = Tier2(server.url, namespace)
    yield tier
    tier.close()


@pytest.fixture
def other(server: RedisServer, namespace: str) -> Iterator[Tier2]:
    tier = Tier2(server.url, namespace)
    yield tier
    tier.close()


@pytest.fixture
def ear(client: redis.Redis, tier: Tier2, other: Tier2) -> Iterator[Ear]:
    ear = Ear(client, tier.inbox, other.inbox, tier.names.invalidations)
    yield ear
    ear.close()


class Keys:
    """The names of one key, and what stands there."""

    def __init__(self, tier: Tier2, client: redis.Redis, key: str = "k") -> None:
        names = tier.names
        self.v, self.l, self.f = names.value(key), names.lease(key), names.failure(key)
        self._client = client
        self._prefix = names.value(key)[: -len("v")]

    def all(self) -> dict[str, Any]:
        """Everything under the key by its ending; each has a TTL."""
        found: dict[str, Any] = {}
        for name in self._client.keys(self._prefix.replace("[", "\\[") + "*"):
            assert self._client.pttl(name) > 0, f"{name} has no TTL"
            is_hash = self._client.type(name) == b"hash"
            found[name.decode()[len(self._prefix) :]] = (
                self._client.hgetall(name) if is_hash else self._client.get(name)
            )
        return found


@pytest.fixture
def keys(tier: Tier2, client: redis.Redis) -> Keys:
    return Keys(tier, client)


# acquire


def test_a_free_key_is_granted_to_the_first_who_asks(tier: Tier2, client: redis.Redis, keys: Keys) -> None:
    """The lease holds its token and attempt, and lives as long as it was asked for."""
    lease = a_lease()
    assert tier.acquire(lease, listen=True) == Granted(1)
    assert keys.all() == {"l": {b"t": lease.token, b"n": b"1"}}
    assert 25_000 < client.pttl(keys.l) <= 30_000


def test_acquire_repeated_by_its_token_is_granted_again(tier: Tier2, client: redis.Redis, keys: Keys) -> None:
    """The attempt only grows, and the lease is not made longer."""
    lease = a_lease()
    tier.acquire(lease)
    client.pexpire(keys.l, 20_000)
    assert tier.acquire(lease) == Granted(2)
    lease.attempt = 0  # a delayed duplicate of the first
    assert tier.acquire(lease) == Granted(2)
    assert keys.all()["l"][b"n"] == b"2"
    assert client.pttl(keys.l) <= 20_000


def test_a_lease_in_other_hands_is_busy_and_the_inbox_is_registered(tier: Tier2, other: Tier2, keys: Keys) -> None:
    """BUSY names the lease and its remaining time; only who listens is registered, and once."""
    lease = a_lease()
    tier.acquire(lease)
    busy = other.acquire(a_lease())
    assert isinstance(busy, Busy)
    assert busy.holder == lease.id
    assert 25 < busy.left <= 30
    assert set(keys.all()["l"]) == {b"t", b"n"}
    for _ in range(2):
        assert isinstance(other.acquire(a_lease(), listen=True), Busy)
    assert set(keys.all()["l"]) == {b"t", b"n", b"w:" + other.remote.process.hex().encode()}


def test_a_record_that_is_not_the_known_one_is_a_hit(tier: Tier2, other: Tier2) -> None:
    """Somebody was faster: no lease is taken, whether or not somebody else holds it."""
    id = tier.write_many([("k", a_record(b"12345678"))]) or b"12345678"
    assert tier.acquire(a_lease()) == Hit()
    assert tier.acquire(a_lease(), known=b"other id") == Hit()
    assert tier.acquire(a_lease(), known=id) == Granted(1)
    assert isinstance(other.acquire(a_lease(), known=id), Busy)
    assert other.acquire(a_lease(), known=b"") == Hit()


@pytest.mark.parametrize(
    "data",
    [
        a_record(b"12345678").pack()[:-1],
        a_record(b"12345678").pack() + b"y",
        a_record(b"12345678").pack()[:20],
        b"tc\x02" + a_record(b"12345678").pack()[3:],
        a_record(b"12345678")._replace(soft_invalid=True).pack(),
        b"",
        b"something else that is long enough to be a header",
    ],
    ids=["truncated", "too long", "half a header", "other format", "soft-invalid", "empty", "foreign"],
)
def test_what_is_no_valid_record_does_not_stop_an_election(
    tier: Tier2, client: redis.Redis, keys: Keys, data: bytes
) -> None:
    """What a reader calls absent, acquire calls absent too."""
    client.set(keys.v, data, px=30_000)
    assert tier.acquire(a_lease()) == Granted(1)


def test_a_record_without_a_ttl_is_absent_for_readers_and_elections_alike(
    tier: Tier2, client: redis.Redis, keys: Keys
) -> None:
    """Else GET would say miss and acquire HIT, for ever; a commit gives it a TTL again."""
    client.set(keys.v, a_record(b"12345678").pack())
    lease = a_lease()
    assert tier.read("k").record is None
    assert tier.acquire(lease) == Granted(1)
    assert tier.commit(lease, a_record(lease.id))
    assert set(keys.all()) == {"v"}


def test_a_lease_without_a_ttl_gets_one(tier: Tier2, other: Tier2, client: redis.Redis, keys: Keys) -> None:
    """Whatever took its TTL away, the next who finds it busy sees to its end."""
    tier.acquire(a_lease())
    client.persist(keys.l)
    assert 25 < other.acquire(a_lease()).left <= 30
    assert 0 < client.pttl(keys.l) <= 30_000


def test_a_cooldown_tells_the_failure_and_ends_before_its_count(
    tier: Tier2, other: Tier2, client: redis.Redis, keys: Keys
) -> None:
    """COOLDOWN carries what was stored; once it is over, the count goes on from where it was."""
    pauses = []
    for _ in range(4):
        lease = a_lease()
        assert isinstance(tier.acquire(lease), Granted)
        pauses.append(tier.release(lease, ValueError("no such table"), POLICY))
        cooldown = other.acquire(a_lease())
        assert isinstance(cooldown, Cooldown)
        assert cooldown[1:] == ("failed", "ValueError", "no such table")
        assert pauses[-1] - 0.4 < cooldown.left <= pauses[-1]
        client.pexpire(keys.f, 60_000)  # the cooldown is over
    assert pauses == [0.5, 1.0, 1.5, 1.5]
    assert isinstance(other.acquire(a_lease()), Granted)


# commit


def test_a_commit_stores_forgets_and_tells(
    tier: Tier2, other: Tier2, client: redis.Redis, keys: Keys, ear: Ear
) -> None:
    """The record with its hard lifetime is all that is left; each waiting inbox gets the value once."""
    failed, lease = a_lease(), a_lease()
    tier.acquire(failed)
    tier.release(failed, ValueError(), POLICY)
    client.pexpire(keys.f, 60_000)
    tier.acquire(lease)
    for waiter in (tier, other):
        waiter.acquire(a_lease(), listen=True)
    record = a_record(lease.id)
    ear.heard()
    assert tier.commit(lease, record)
    assert keys.all() == {"v": record.pack()}
    assert 35_000 < client.pttl(keys.v) <= 40_000
    words = [b"k", lease.id, b"ready", record.pack()]
    assert sorted(ear.heard()) == sorted([(tier.inbox, words), (other.inbox, words)])


def test_a_large_value_is_staged_and_not_pushed(tier: Tier2, other: Tier2, keys: Keys, ear: Ear) -> None:
    """It arrives by SET and RENAME, with its hard lifetime; waiters are told to read it."""
    lease = a_lease()
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    assert tier.commit(lease, a_record(lease.id, LARGE))
    assert keys.all() == {"v": a_record(lease.id, LARGE).pack()}
    assert tier.read("k").remaining > 35
    assert ear.heard() == [(other.inbox, [b"k", lease.id, b"ready", b""])]


@pytest.mark.parametrize("payload", [b"x", LARGE], ids=["small", "large"])
def test_a_commit_repeated_after_a_lost_reply_is_ok_again(
    tier: Tier2, other: Tier2, keys: Keys, ear: Ear, payload: bytes
) -> None:
    """The second changes nothing, tells nobody and leaves no staged payload; and so after another's acquire."""
    lease = a_lease()
    tier.acquire(lease)
    record = a_record(lease.id, payload)
    assert tier.commit(lease, record, True)
    before = keys.all()
    assert ear.heard() == [(tier.names.invalidations, [b"k", lease.id])]
    assert tier.commit(lease, record, True)
    assert keys.all() == before
    following = a_lease()
    assert other.acquire(following, known=lease.id) == Granted(1)
    assert tier.commit(lease, record, True)
    assert set(keys.all()) == {"v", "l"}
    assert ear.heard() == []
    assert other.commit(following, a_record(following.id))


@pytest.mark.parametrize("payload", [b"x", LARGE], ids=["small", "large"])
def test_who_does_not_hold_the_lease_commits_nothing(tier: Tier2, other: Tier2, keys: Keys, payload: bytes) -> None:
    """Without a lease, or with another's in its place, the answer is REJECTED and nothing is left behind."""
    late = a_lease()
    tier.acquire(late)
    tier.invalidate(["k"], False)
    assert not tier.commit(late, a_record(late.id, payload))
    assert keys.all() == {}
    lease = a_lease()
    other.acquire(lease)
    before = keys.all()
    assert not tier.commit(late, a_record(late.id, payload))
    assert keys.all() == before


@pytest.mark.parametrize("payload", [b"x", LARGE], ids=["small", "large"])
def test_only_the_attempt_that_was_granted_may_commit(
    tier: Tier2, other: Tier2, keys: Keys, ear: Ear, payload: bytes
) -> None:
    """The orphan of another attempt is removed, and who waited behind it elects again."""
    lease = a_lease()
    tier.acquire(lease)
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    lease.attempt = 1
    assert not tier.commit(lease, a_record(lease.id, payload))
    assert keys.all() == {}
    assert ear.heard() == [(other.inbox, [b"k", lease.id, b"retry", b""])]


def test_an_acquire_that_is_executed_late_gives_nobody_the_right_to_commit(tier: Tier2, keys: Keys) -> None:
    """A timed-out acquire, repeated on a new connection and executed after an invalidation: its old value stays out."""
    lease, delayed = a_lease(), []

    def lossy(packed: bytes, replies: int, timeout: float) -> list[Any]:
        if not delayed:
            delayed.append(packed)
            raise Unanswered("no answer in time")
        return tier.links.exchange(packed, replies, timeout)

    tier.io._exchange = lossy
    tier.links.exchange(b"*2\r\n$6\r\nSCRIPT\r\n$5\r\nFLUSH\r\n", 1, 5)
    granted = tier.acquire(lease)  # answered at the second try
    assert isinstance(granted, Granted)
    tier.invalidate(["k"], False)
    [executed] = tier.links.exchange(delayed[0], 1, 5)  # Redis gets round to the first
    assert executed[0] == b"GRANTED"
    assert not tier.commit(lease, a_record(lease.id))
    assert keys.all() == {}


def test_a_value_without_a_lifetime_is_told_and_not_kept(tier: Tier2, other: Tier2, keys: Keys, ear: Ear) -> None:
    """Hard lifetime 0: those who waited get the value, nobody after them."""
    lease = a_lease()
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    record = a_record(lease.id, b"none", 0, 0)
    assert tier.commit(lease, record)
    assert keys.all() == {}
    assert ear.heard() == [(other.inbox, [b"k", lease.id, b"ready", record.pack()])]


def test_a_soft_invalid_record_of_the_same_token_is_no_commit(tier: Tier2) -> None:
    """After an invalidation that keeps the old value, a repeated commit is not taken for a stored one."""
    lease = a_lease()
    tier.acquire(lease)
    tier.commit(lease, a_record(lease.id))
    tier.invalidate(["k"], True)
    assert not tier.commit(lease, a_record(lease.id))
    assert tier.read("k").record.soft_invalid


# renew and release


def test_renew_extends_the_holder_alone(tier: Tier2, client: redis.Redis, keys: Keys) -> None:
    """In one round trip each lease is extended, or found lost without a change."""
    held, lost, foreign = a_lease(), a_lease("lost"), a_lease("foreign")
    tier.acquire(held)
    tier.acquire(a_lease("lost"))
    client.set(tier.names.lease("foreign"), "?", px=20_000)
    client.pexpire(keys.l, 5_000)
    client.pexpire(tier.names.lease("lost"), 5_000)
    assert tier.renew([held, lost, foreign]) == [True, False, False]
    assert client.pttl(keys.l) > 25_000
    assert client.pttl(tier.names.lease("lost")) <= 5_000
    assert client.pttl(tier.names.lease("foreign")) <= 20_000


def test_a_refused_renewal_is_not_a_lost_lease(tier: Tier2) -> None:
    """A server that is busy or read-only for a moment says nothing about who holds the lease."""
    lease = a_lease()
    tier.acquire(lease)
    for reply in ("LOADING Redis is loading", "READONLY You can't write"):
        tier.io._exchange = lambda packed, n, timeout, reply=reply: [Refusal(reply)] * n
        with pytest.raises(RemoteRefused):
            tier.renew([lease])
    tier.io._exchange = tier.links.exchange
    assert tier.renew([lease]) == [True]


def test_release_gives_the_lease_back_and_says_so(tier: Tier2, other: Tier2, keys: Keys, ear: Ear) -> None:
    """`retry`: no failure is stored, the waiters elect again; a repeat does nothing."""
    lease = a_lease()
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    assert tier.release(lease) == 0
    assert keys.all() == {}
    assert ear.heard() == [(other.inbox, [b"k", lease.id, b"retry", b""])]
    assert tier.release(lease) == 0
    assert ear.heard() == []


def test_a_failed_release_tells_the_failure_to_all_who_wait(tier: Tier2, other: Tier2, keys: Keys, ear: Ear) -> None:
    """The message says what the record of failures says, at most 200 characters of it."""
    lease = a_lease()
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    assert tier.release(lease, ValueError("\ud800" + "é" * 300), POLICY) == 0.5
    [(inbox, words)] = ear.heard()
    assert (inbox, words[:3]) == (other.inbox, [b"k", lease.id, b"failed"])
    told = other.remote.failure(words[3])
    assert told == Cooldown(0.5, "failed", "ValueError", "?" + "é" * 199)
    assert set(keys.all()) == {"f"}
    assert other.acquire(a_lease())[1:] == told[1:]


def test_a_failed_release_repeated_counts_once(tier: Tier2, keys: Keys, ear: Ear) -> None:
    """After a lost reply the answer is the cooldown that goes on, and nobody is told again."""
    lease = a_lease()
    tier.acquire(lease)
    error = ValueError("x")
    assert tier.release(lease, error, POLICY) == 0.5
    ear.heard()
    before = keys.all()
    assert 0 < tier.release(lease, error, POLICY) <= 0.5
    assert keys.all() == before
    assert ear.heard() == []


def test_an_error_that_cannot_say_what_it_is_is_stored_all_the_same(tier: Tier2, other: Tier2) -> None:
    """An exception whose `__str__` raises starts a cooldown like any other."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    lease = a_lease()
    tier.acquire(lease)
    assert tier.release(lease, Mute(), POLICY) == 0.5
    assert other.acquire(a_lease())[1:] == ("failed", "Mute", "")


def test_a_non_holder_changes_nothing(tier: Tier2, other: Tier2, client: redis.Redis, keys: Keys, ear: Ear) -> None:
    """Neither renew nor either release of a stranger touches the lease, the failures or a waiter (S6)."""
    lease, stranger = a_lease(), a_lease()
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    client.pexpire(keys.l, 5_000)
    before = keys.all()
    assert tier.renew([stranger]) == [False]
    assert tier.release(stranger) == 0
    assert tier.release(stranger, ValueError(), POLICY) == 0
    assert keys.all() == before
    assert client.pttl(keys.l) <= 5_000
    assert ear.heard() == []


# invalidate and write


def test_a_hard_invalidation_leaves_nothing_and_tells_everybody(
    tier: Tier2, other: Tier2, keys: Keys, ear: Ear
) -> None:
    """Record, lease and failures are gone; the waiters elect again, every process hears the key."""
    for key in ("k", "free"):
        tier.write_many([(key, a_record(b"12345678"))])
    lease = a_lease()
    tier.acquire(lease, known=b"12345678")
    other.acquire(a_lease(), known=b"12345678", listen=True)
    ear.heard()
    tier.invalidate(["k", "free"], False)
    assert keys.all() == {}
    assert tier.read("free").record is None
    assert ear.heard() == [
        (other.inbox, [b"k", lease.id, b"retry", b""]),
        (tier.names.invalidations, [b"k", b""]),
        (tier.names.invalidations, [b"free", b""]),
    ]
    assert not tier.commit(lease, a_record(lease.id))


def test_a_soft_invalidation_keeps_the_value_for_errors_only(
    tier: Tier2, client: redis.Redis, keys: Keys, ear: Ear
) -> None:
    """The flag is set once, the rest of the record and its lifetime stay, the load that runs can't commit."""
    record = a_record(b"12345678")
    tier.write_many([("k", record)])
    lease = a_lease()
    tier.acquire(lease, known=b"12345678")
    client.pexpire(keys.v, 9_000)
    for _ in range(2):
        tier.invalidate(["k"], True)
        assert keys.all() == {"v": record._replace(soft_invalid=True).pack()}
    assert client.pttl(keys.v) <= 9_000
    assert [words for _, words in ear.heard()] == [[b"k", b"12345678"], [b"k", b""], [b"k", b""]]
    assert not tier.commit(lease, a_record(lease.id))
    assert tier.acquire(a_lease(), known=b"12345678") == Granted(1)


def test_a_soft_invalidation_of_nothing_leaves_nothing(tier: Tier2, client: redis.Redis, keys: Keys) -> None:
    """No record, or something that is none, is left as it is; the message goes out all the same."""
    tier.invalidate(["k"], True)
    assert keys.all() == {}
    client.set(keys.v, "tc", px=9_000)
    tier.invalidate(["k"], True)
    assert client.get(keys.v) == b"tc"


@pytest.mark.parametrize("payload", [b"x", LARGE], ids=["small", "large"])
def test_a_write_replaces_everything_and_tells_everybody(
    tier: Tier2, other: Tier2, client: redis.Redis, keys: Keys, ear: Ear, payload: bytes
) -> None:
    """Its record is all that is left; waiters get it if it is small, every process hears its id."""
    failed, lease = a_lease(), a_lease()
    tier.acquire(failed)
    tier.release(failed, ValueError(), POLICY)
    client.pexpire(keys.f, 60_000)
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    ear.heard()
    record = a_record(b"12345678", payload)
    tier.write_many([("k", record)])
    assert keys.all() == {"v": record.pack()}
    assert 35_000 < client.pttl(keys.v) <= 40_000
    value = record.pack() if payload == b"x" else b""
    assert ear.heard() == [
        (other.inbox, [b"k", lease.id, b"ready", value]),
        (tier.names.invalidations, [b"k", b"12345678"]),
    ]
    assert not tier.commit(lease, a_record(lease.id))
    assert keys.all() == {"v": record.pack()}


def test_many_writes_go_in_one_round_trip(tier: Tier2, client: redis.Redis) -> None:
    """Small and large records side by side, also on a server that knows no script yet."""
    client.script_flush()
    records = [(f"k{i}", a_record(b"%08d" % i, b"x" if i % 2 else LARGE)) for i in range(20)]
    tier.write_many(records)
    assert [found.record for found in tier.read_many([key for key, _ in records])] == [r for _, r in records]


def test_a_written_value_without_a_lifetime_ends_the_old_one(tier: Tier2, keys: Keys) -> None:
    """A lifetime below a millisecond is no error: the old record goes, and nothing fresh comes."""
    tier.write_many([("k", a_record(b"12345678"))])
    for payload in (b"x", LARGE):
        tier.write_many([("k", a_record(b"87654321", payload, 0, 0))])
        found = tier.read("k")
        assert found.record is None or found.remaining == 0


# what stands under our names and is not ours


FOREIGN: dict[str, Any] = {
    "string": lambda client, name: client.set(name, "a"),
    "hash": lambda client, name: client.hset(name, "a", "b"),
    "list": lambda client, name: client.rpush(name, "a"),
    "set": lambda client, name: client.sadd(name, "a"),
    "sorted set": lambda client, name: client.zadd(name, {"a": 1}),
    "stream": lambda client, name: client.xadd(name, {"a": "b"}),
}


@pytest.mark.parametrize("lifetime", [None, 30_000, 90_000])
@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (place, kind)
        for place, ours in {"v": "string", "l": "hash", "f": "hash"}.items()
        for kind in FOREIGN
        if kind != ours
    ],
)
def test_a_foreign_type_under_our_names_is_never_touched(
    tier: Tier2, client: redis.Redis, keys: Keys, place: str, kind: str, lifetime: int | None
) -> None:
    """A script that meets it is refused as WRONGTYPE before it changed anything; an invalidation works around it."""
    name = getattr(keys, place)
    lease, record = a_lease(), a_record(b"12345678")
    if place != "l":
        tier.acquire(lease)
    else:
        lease.attempt = 1
    FOREIGN[kind](client, name)
    if lifetime is not None:
        client.pexpire(name, lifetime)
    before = client.dump(name), client.hgetall(keys.l) if place != "l" else None
    for payload in (b"x", LARGE):
        attempts: list[Any] = [
            partial(tier.commit, lease, a_record(lease.id, payload)),
            partial(tier.write_many, [("k", record._replace(payload=payload))]),
        ]
        if place != "f":  # else the lease is held, and its waiters may register
            attempts.append(partial(tier.acquire, a_lease()))
        if place != "v":  # else it is no business of the script's
            attempts.append(partial(tier.release, lease, ValueError(), POLICY))
        for attempt in attempts:
            with pytest.raises(RemoteRefused) as refused:
                attempt()
            assert refused.value.code == "WRONGTYPE"
            assert before == (client.dump(name), client.hgetall(keys.l) if place != "l" else None)
    assert tier.read("k").record is None
    for soft in (True, False):
        tier.invalidate(["k"], soft)
    if place != "l":
        assert client.exists(keys.l) == 0
    with pytest.raises(RemoteRefused, match="WRONGTYPE"):
        tier.acquire(a_lease())
    assert client.dump(name) == before[0]
    assert (client.pttl(name) if lifetime else -1) <= (lifetime or -1)


# the scripts as a whole


def test_every_script_is_sent_again_to_a_server_that_forgot_it(tier: Tier2, client: redis.Redis) -> None:
    """After SCRIPT FLUSH each operation does its work at once."""

    def flushed() -> Tier2:
        client.script_flush()
        return tier

    lease, failed = a_lease(), a_lease("f")
    assert flushed().acquire(lease) == Granted(1)
    assert flushed().renew([lease, lease]) == [True, True]
    assert flushed().commit(lease, a_record(lease.id, LARGE))
    tier.acquire(failed)
    assert flushed().release(failed, ValueError(), POLICY) == 0.5
    flushed().write_many([("k", a_record(b"12345678"))])
    assert tier.read("k").record == a_record(b"12345678")
    flushed().invalidate(["k"], False)
    assert tier.read("k").record is None


def every_branch(tier: Tier2, other: Tier2) -> None:
    for payload in (b"x", LARGE):
        lease, failed, gone = a_lease(), a_lease("f"), a_lease("g")
        for _ in range(2):
            tier.acquire(lease)
        other.acquire(a_lease(), listen=True)
        tier.renew([lease, gone])
        for holder in (lease, lease, gone):
            tier.commit(holder, a_record(holder.id, payload), True)
        tier.acquire(a_lease())
        tier.acquire(failed)
        for _ in range(2):
            tier.release(failed, ValueError(), POLICY)
        tier.acquire(a_lease("f"))
        tier.write_many([("k", a_record(b"12345678", payload))])
        for soft in (True, False):
            tier.invalidate(["k", "f"], soft)


def test_scripts_touch_declared_keys_only(tier: Tier2, other: Tier2, server: RedisServer) -> None:
    """Every key that any branch reads or writes is among the KEYS of its call, as Redis sees it."""
    every_branch(tier, other)  # from here on the server knows the scripts: MONITOR shows no texts
    with server.client() as spy, spy.monitor() as monitor:
        every_branch(tier, other)
        tier.read("the end")
        declared, seen = set(), set()
        while True:
            command = monitor.next_command()
            words = command["command"].split(" ")
            name = words[0].upper()
            if name == "EVALSHA":
                declared = set(words[3 : 3 + int(words[2])])
            elif name == "PTTL" and command["client_type"] != "lua":
                break
            elif command["client_type"] == "lua" and name != "PUBLISH":
                assert set(words[1:] if name in ("DEL", "RENAME") else words[1:2]) <= declared
                seen.add(name)
        assert {"DEL", "RENAME", "SET", "SETRANGE", "HINCRBY", "PEXPIRE", "HLEN", "STRLEN", "TYPE"} <= seen


@pytest.mark.parametrize("key", ["k", "a}b", "{a}", "}", "a{b}c", "#x", "ä" * 101, "x" * 201, "\n *[?"])
def test_all_names_of_a_key_share_one_hash_tag(key: str) -> None:
    """Whatever braces the key has, the tag is the same for all four names and never empty."""
    names, wire = Names("shop"), wire_key(key)

    def tag(name: str) -> str:
        start = name.index("{") + 1
        return name[start : name.index("}", start)]

    four = [names.value(wire), names.lease(wire), names.failure(wire), names.staging(wire, b"t" * 16)]
    assert len({tag(name) for name in four}) == 1
    assert tag(four[0]).startswith("shop:")
    assert len(set(four)) == 4
    assert len(wire.encode()) <= 200


def test_names_of_different_keys_never_meet() -> None:
    """A key that looks like the name of another's record, or like a digest, is still its own."""
    names = Names("shop")
    tricky = ["k", "k}:l", "k}:v", "#" + "0" * 32, wire_key("#x"), wire_key("y" * 300)]
    wires = [wire_key(key) for key in tricky]
    assert len({name(key) for key in wires for name in (names.value, names.lease, names.failure)}) == 3 * len(tricky)


def test_a_record_is_read_back_whole(tier: Tier2) -> None:
    """Header and payload, binary ones too, come back as they went, with what is left of their lifetime."""
    record = a_record(bytes(range(8)), bytes(range(256)))
    tier.write_many([("k", record)])
    found = tier.read("k")
    assert found.record == record == unpack(record.pack())
    assert 35 < found.remaining <= 40


# a full server


@pytest.fixture
def full(client: redis.Redis) -> Iterator[redis.Redis]:
    """The server refuses whatever adds memory, from `yield` to the end of the test."""
    yield client
    client.config_set("maxmemory", 0)


def fill(client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("anything", "x")


def test_leases_work_on_a_full_server(tier: Tier2, other: Tier2, keys: Keys, full: redis.Redis, ear: Ear) -> None:
    """Elections, registrations, renewals, releases and invalidations go on exactly when they are needed."""
    tier.write_many([("soft", a_record(b"12345678"))])
    fill(full)
    lease, failed = a_lease(), a_lease("f")
    assert tier.acquire(lease) == Granted(1)
    assert isinstance(other.acquire(a_lease(), listen=True), Busy)
    assert tier.renew([lease]) == [True]
    assert tier.release(lease) == 0
    assert tier.acquire(failed) == Granted(1)
    assert tier.release(failed, ValueError(), POLICY) == 0.5
    assert isinstance(tier.acquire(a_lease("f")), Cooldown)
    tier.invalidate(["k", "f"], False)
    ear.heard()
    tier.invalidate(["soft"], True)
    assert tier.read("soft").record.soft_invalid
    assert ear.heard() == [(tier.names.invalidations, [b"soft", b""])]
    assert keys.all() == {}


def test_a_small_value_that_cannot_be_stored_reaches_those_who_wait(
    tier: Tier2, other: Tier2, keys: Keys, full: redis.Redis, ear: Ear
) -> None:
    """The store is refused as OOM, the lease is gone, the value is in the message."""
    lease = a_lease()
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    fill(full)
    record = a_record(lease.id)
    with pytest.raises(RemoteRefused) as refused:
        tier.commit(lease, record)
    assert refused.value.code == "OOM"
    assert keys.all() == {}
    assert ear.heard() == [(other.inbox, [b"k", lease.id, b"ready", record.pack()])]


def test_a_large_value_that_cannot_be_stored_sends_the_waiters_away_for_a_while(
    tier: Tier2, other: Tier2, client: redis.Redis, keys: Keys, full: redis.Redis, ear: Ear
) -> None:
    """A short cooldown of its own kind, so that they don't load one after another."""
    lease = a_lease()
    tier.acquire(lease)
    other.acquire(a_lease(), listen=True)
    fill(full)
    with pytest.raises(RemoteRefused) as refused:
        tier.commit(lease, a_record(lease.id, LARGE))
    assert refused.value.code == "OOM"
    assert set(keys.all()) == {"f"}
    assert ear.heard() == [(other.inbox, [b"k", lease.id, b"retry", b""])]
    cooldown = other.acquire(a_lease())
    assert isinstance(cooldown, Cooldown)
    assert cooldown.reason == "unstored"
    assert 0 < cooldown.left <= 1
    client.pexpire(keys.f, 60_000)
    assert isinstance(other.acquire(a_lease()), Granted)


def test_a_write_on_a_full_server_is_refused_whole(tier: Tier2, full: redis.Redis, ear: Ear) -> None:
    """Small or large: refused as OOM, nothing is changed and nobody is told."""
    record = a_record(b"12345678")
    tier.write_many([("k", record)])
    ear.heard()
    fill(full)
    for payload in (b"y", LARGE):
        with pytest.raises(RemoteRefused) as refused:
            tier.write_many([("k", a_record(b"87654321", payload))])
        assert refused.value.code == "OOM"
    assert tier.read("k").record == record
    assert ear.heard() == []


def test_a_lease_of_somebody_else_is_named_by_its_first_bytes(tier: Tier2) -> None:
    """The id in BUSY, in messages and in the record is one and the same."""
    lease = Lease("k", b"0123456789abcdef", 30.0)
    tier.acquire(lease)
    assert tier.acquire(a_lease()).holder == lease.id == b"01234567"
