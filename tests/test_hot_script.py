"""The scripts of the fleet's popularity: what they hold, on real servers and in memory, and what is read out of it."""

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import redis
from redis_server import RedisServer
from tier2 import Tier2, servers

from tiercache.remote import commands
from tiercache.remote.popularity import PERIOD, hottest
from tiercache.remote.resp import Refusal, pack
from tiercache.testing import MemoryRedis, SteppedClock
from tiercache.testing.redis import MemoryLinks

HALF = 10_000.0  # s: what an example takes is nothing beside it
CLOSE = 2e-3
KINDS = [
    *4 * ["report"], *3 * ["time passes"], *2 * ["read"],
    "report of many", "foreign", "malformed", "evicted", "the server is full",
]  # fmt: skip
FIELDS = [b"at", b"began", b"half", b"all"]
MALFORMED = [b"what", b"nan", b"", b"1e301", b"0", b"-7"]
NOISE = 1e-5  # of a score that has faded; a real server's clock goes on


@pytest.fixture(params=servers())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer("--maxmemory-policy", "noeviction", executable=request.param) as server:
        yield server


class Real:
    """A server; time passes by setting back what it remembers."""

    def __init__(self, client: redis.Redis, tier: Tier2) -> None:
        self.client, self.tier = client, tier
        self.names = [name.encode() for name in tier.names.popularity]
        client.config_set("maxmemory", 0)
        client.flushall()

    def send(self, *words: Any) -> Any:
        return self.tier.links.exchange(pack(*words), 1, 10.0)[0]

    def now(self) -> float:
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    def passes(self, seconds: float) -> None:
        limit = self.client.config_get("maxmemory")["maxmemory"]
        self.full(False)
        for name in self.names:
            if (left := self.client.pttl(name)) > 0:
                self.client.pexpire(name, round(left - 1000 * seconds))
        if self.client.type(self.names[1]) == b"hash":
            for field in (b"at", b"began"):
                if (old := self.client.hget(self.names[1], field)) is not None and old not in MALFORMED:
                    self.client.hset(self.names[1], field, repr(float(old) - seconds))
        self.client.config_set("maxmemory", limit)

    def put(self, name: bytes, value: Any) -> None:
        if isinstance(value, bytes):
            self.client.set(name, value)
        else:
            self.client.hset(name, mapping=value)

    def full(self, full: bool) -> None:
        self.client.config_set("maxmemory", int(full))

    def state(self) -> Any:
        kinds = [self.client.type(name).decode() for name in self.names]
        scores = dict(self.client.zrange(self.names[0], 0, -1, withscores=True)) if kinds[0] == "zset" else {}
        tally = self.client.hgetall(self.names[1]) if kinds[1] == "hash" else {}
        return kinds, scores, tally, [self.client.pttl(name) for name in self.names]


class Memory:
    """The same in memory."""

    def __init__(self, names: list[str]) -> None:
        self.clock = SteppedClock(1_000_000.0)
        self.redis = MemoryRedis(self.clock)
        self.names = [name.encode() for name in names]
        self.links = MemoryLinks(self.redis)

    def send(self, *words: Any) -> Any:
        return self.links.exchange(pack(*words), 1, 10.0)[0]

    def now(self) -> float:
        return self.clock()

    def passes(self, seconds: float) -> None:
        self.clock.step(seconds)

    def put(self, name: bytes, value: Any) -> None:
        if isinstance(value, bytes):
            self.redis.db.set(name, value)
        else:
            self.redis.db.hset(name, value)

    def full(self, full: bool) -> None:
        self.redis.db.full = full

    def state(self) -> Any:
        db = self.redis.db
        kinds = [db.type(name) for name in self.names]
        scores = dict(db.scores(self.names[0])) if kinds[0] == "zset" else {}
        tally = dict(db.hash(self.names[1])) if kinds[1] == "hash" else {}
        return kinds, scores, tally, [db.pttl(name) for name in self.names]


Side = Real | Memory


def call(side: Side, script: commands.Script, *args: Any) -> Any:
    words = commands.evalsha(script, [name.decode() for name in side.names], *args)
    reply = side.send(*words)
    if isinstance(reply, Refusal) and reply.code == "NOSCRIPT":
        reply = side.send(*commands.evaluate(words))
    return reply


def move(chance: Random) -> Callable[[Side], Any]:
    """Something that can happen to either."""
    kind = chance.choice(KINDS)
    if kind in ("report", "report of many"):
        half = repr(chance.choice([HALF, HALF, HALF, 2.3 * HALF]))
        keys = chance.sample(range(30), chance.randrange(9)) if kind == "report" else range(1050)
        gains = [word for n in keys for word in (f"k{n}", repr(chance.uniform(0.1, 9.0)))]
        return lambda side: call(side, commands.HOT, half, "700.5", "12.25", *gains)
    if kind == "read":
        most = chance.choice([1, 5, 1000])
        return lambda side: call(side, commands.HOTTEST, most)
    if kind == "time passes":
        seconds = chance.choice([0.3, 0.3, 0.9, 5.17, 12]) * HALF
        return lambda side: side.passes(seconds)
    if kind == "the server is full":
        full = chance.random() < 0.5
        return lambda side: side.full(full)
    place, field, value = chance.randrange(2), chance.choice(FIELDS), chance.choice(MALFORMED)
    if kind == "evicted":
        return lambda side: side.send("DEL", side.names[place])

    def meddled(side: Side) -> None:
        side.full(False)
        if kind == "foreign":
            side.send("DEL", *side.names)
            side.put(side.names[place], b"x")
        elif side.state()[0][1] == "hash":
            side.put(side.names[1], {field: value})

    return meddled


def like(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * max(abs(one), abs(other)) + NOISE


def the_same(real: Real, memory: Memory) -> None:
    (kinds, scores, tally, left), (kinds2, scores2, tally2, left2) = real.state(), memory.state()
    assert kinds == kinds2
    assert scores.keys() == scores2.keys()
    for key, score in scores.items():
        assert like(score, scores2[key]), key
    assert tally.keys() == tally2.keys()
    for field, value in tally.items():
        if tally2[field] in MALFORMED:
            assert value == tally2[field]
        elif field in (b"at", b"began"):
            assert real.now() - float(value) == pytest.approx(memory.now() - float(tally2[field]), abs=5)
        else:
            assert like(float(value), float(tally2[field])), field
    assert left == [pytest.approx(each, abs=5_000) for each in left2]
    assert [each < 0 for each in left] == [each < 0 for each in left2]


def test_both_servers_hold_and_answer_the_same(
    server: RedisServer, namespace: str, amount: Callable[[int, int], int]
) -> None:
    """Reports of any size and half-life, time, foreign types, malformed fields, evictions, a full server."""
    tier = Tier2(server.url, namespace)
    with server.client() as client:
        for seed in range(amount(150, 3000)):
            real, memory, chance = Real(client, tier), Memory(tier.names.popularity), Random(seed)
            for _ in range(12):
                moved = move(chance)
                reply, reply2 = moved(real), moved(memory)
                if isinstance(reply, list) and len(reply) == 3:
                    found, found2 = dict_of(hottest(reply)), dict_of(hottest(reply2))
                    assert found.keys() == found2.keys()
                    assert all(like(a, b) for key in found for a, b in zip(found[key], found2[key], strict=True))
                elif isinstance(reply, Refusal):
                    assert isinstance(reply2, Refusal)
                    assert "WRONGTYPE" in str(reply)
                    assert "WRONGTYPE" in str(reply2)
                else:
                    assert reply == reply2
                the_same(real, memory)
        client.config_set("maxmemory", 0)
    tier.close()


def dict_of(found: list[tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    return {key: (rate, share) for key, rate, share in found}


@pytest.fixture
def fleet_hot(clock: SteppedClock) -> Memory:
    memory = Memory(commands.Names("default").popularity)
    memory.clock, memory.redis = clock, MemoryRedis(clock)
    memory.links = MemoryLinks(memory.redis)
    return memory


def told(side: Memory, half: float = 60.0, counted: float = 0.0, hits: float = 1.0, **gains: float) -> None:
    words = [word for key, gain in gains.items() for word in (key, repr(gain))]
    assert call(side, commands.HOT, repr(half), repr(counted), repr(hits), *words) == [b"OK"]


def found(side: Side, most: int = 1000) -> dict[str, tuple[float, float]]:
    return dict_of(hottest(call(side, commands.HOTTEST, most)))


def test_scores_fade_by_half_lives_and_add_up(fleet_hot: Memory, clock: SteppedClock) -> None:
    """Whatever the times between the reports, and with them the times at which scores are rewritten."""
    exact = {"a": 0.0, "b": 0.0}
    chance = Random(1)
    began = clock()
    for _ in range(400):
        pause = chance.choice([0.0, 0.3, 5.0, 59.0, 100.0])
        clock.step(pause)
        gains = {key: chance.uniform(0.5, 5.0) for key in chance.sample(["a", "b"], chance.randrange(1, 3))}
        told(fleet_hot, hits=2 * sum(gains.values()), **gains)
        exact = {key: exact[key] * 2 ** (-pause / 60) + gains.get(key, 0.0) for key in exact}
        shares = {key: share for key, (_, share) in found(fleet_hot).items()}
        if len(shares) == 2:
            assert shares["a"] / shares["b"] == pytest.approx(exact["a"] / exact["b"], rel=1e-6)
    lag = (1 - 2 ** (-PERIOD / 60)) / (PERIOD / 60 * math.log(2))
    reached = 1 - 2 ** (-(clock() - began) / 60)
    for key, (rate, _) in found(fleet_hot).items():
        assert rate == pytest.approx(exact[key] * math.log(2) / 60 / reached / lag, rel=1e-6)


def test_what_is_kept_is_bounded_in_number_and_time(fleet_hot: Memory, clock: SteppedClock) -> None:
    """1,000 keys and those of the last report; nothing, ten half-lives after it."""
    for n in range(30):
        told(fleet_hot, **{f"k{100 * n + each}": 1.0 + n for each in range(100)})
        assert len(fleet_hot.state()[1]) == min(100 * (n + 1), 1100)
    assert "k2999" in found(fleet_hot)
    clock.step(10 * 60.0 - 0.1)
    assert sorted(fleet_hot.redis.db.names()) == sorted(fleet_hot.names)
    clock.step(0.2)
    assert fleet_hot.redis.db.names() == []


def test_a_clock_that_was_set_back_begins_anew(fleet_hot: Memory, clock: SteppedClock) -> None:
    """By more than a half-life; else what comes next weighs a little less."""
    told(fleet_hot, hits=8.0, a=8.0)
    clock.step(-30.0)
    told(fleet_hot, hits=8.0, b=8.0)
    assert found(fleet_hot)["b"][1] == pytest.approx(2**-0.5 / (1 + 2**-0.5))
    clock.step(-31.0)
    told(fleet_hot, hits=1.0, c=1.0)
    assert {key: share for key, (_, share) in found(fleet_hot).items()} == {"c": 1.0}


def test_what_is_too_long_to_be_ours_is_not_sent(server: RedisServer, namespace: str) -> None:
    """Whoever writes to Redis, an answer has its bounds."""
    tier = Tier2(server.url, namespace)
    with server.client() as client:
        for side in (Real(client, tier), Memory(tier.names.popularity)):
            for key in ("k" * 200, "k" * 201, "k" * 1_000_000):
                call(side, commands.HOT, "60", "0", "9", key, "3")
            assert list(found(side)) == ["k" * 200]
            assert len(call(side, commands.HOTTEST, 1000)[2]) == 6
            assert sum(map(len, call(side, commands.HOTTEST, 1000)[2])) < 300
            side.put(side.names[1], {b"all": b"9" * 1_000_000})
            assert call(side, commands.HOTTEST, 1000)[1][3] == b""
            assert found(side) == {}
    tier.close()


GOOD: list[Any] = [[b"1000", b"500000"], [b"1000.5", b"940.5", b"60", b"8"], [b"a", b"6", b"b", b"2"]]


@pytest.mark.parametrize(
    "tally",
    [
        [None, b"940", b"60", b"8"], [b"1000", None, b"60", b"8"], [b"1000", b"940", b"", b"8"],
        [b"1000", b"940", b"0", b"8"], [b"1000", b"940", b"-1", b"8"], [b"1000", b"940", b"nan", b"8"],
        [b"inf", b"940", b"60", b"8"], [b"1000", b"-inf", b"60", b"8"], [b"1000", b"940", b"60", b"0"],
        [b"1000", b"940", b"60", b"inf"], [b"1000", b"940", b"1e300", b"8"], [b"1000", b"940", b"60", b"8" * 65],
        [b"1000", b"940", [b"60"], b"8"], [b"1000", b"940", 60, b"8"],
    ],
)  # fmt: skip
def test_a_malformed_tally_is_none(tally: list[Any]) -> None:
    """And no crash."""
    assert hottest([GOOD[0], tally, GOOD[2]]) == []


@pytest.mark.parametrize(
    "pair",
    [
        (b"\xff", b"3"), (b"", b"3"), (b"x" * 201, b"3"), (7, b"3"), (b"k", b"x"), (b"k", None), (b"k", b"-3"),
        (b"k", b"nan"), (b"k", b"inf"), (b"k", b"1e301"), (b"k", b"0"), (b"k", b"1e-9"), (b"k", b"3" * 65),
        (b"k", [b"3"]),
    ],
)  # fmt: skip
def test_a_malformed_member_is_left_out(pair: tuple[Any, Any]) -> None:
    """The others stay."""
    assert dict_of(hottest(GOOD)).keys() == {"a", "b"}
    assert hottest([*GOOD[:2], [*pair, *GOOD[2]]]) == hottest(GOOD)
    assert [share for *_, share in hottest(GOOD)] == [0.75, 0.25]


@pytest.mark.parametrize(
    "reply", [None, b"OK", [], [b"1", b"2", b"3"], [[b"1"], *GOOD[1:]], [GOOD[0], [b"1"], []], [*GOOD[:2], b"a"]]
)
def test_what_is_no_reply_is_an_error(reply: Any) -> None:
    """Which the caller is told as one of Redis's."""
    with pytest.raises(ValueError, match=r".*"):
        hottest(reply)
