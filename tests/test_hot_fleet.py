"""The fleet's popularity: what processes report and when, what is read of it, and how exact it is."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from typing import Any

import cachetools
import fleet as members
import forks
import pytest
from both import FACES
from redis_server import RedisServer, free_port
from test_hot import HALF_LIFE, Stream, hit, spread

from tiercache import Cache, Hot, Policy, RemoteUnavailable
from tiercache.blocking import run
from tiercache.remote import popularity
from tiercache.remote.commands import HOT, Names
from tiercache.remote.links import Unanswered
from tiercache.remote.popularity import PERIOD, REFUSED
from tiercache.remote.resp import Refusal
from tiercache.remote.timer import Timer
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock


class StillTimer(Timer):
    """Without its thread: the test lets it take its turns."""

    def _wake(self) -> None:
        pass


class Process:
    """One process of a fleet in memory."""

    def __init__(self, fleet: MemoryRedis, **settings: Any) -> None:
        policy = Policy(ttl=1e6, local_ttl=1e6, half_life=HALF_LIFE)
        self.cache = MemoryCache(fleet, **{"policy": policy, **settings})
        process = self.process = self.cache._process
        self.node = node = process.node
        node.timer = StillTimer(node.remote, process.blocking, run, node.now, node.tell)
        process.wake()
        assert process.reports is not None
        self.reports = process.reports

    def report(self) -> None:
        """As the timer does when it is time."""
        run(self.reports.report(self.process.blocking()))

    def turn(self) -> None:
        run(self.node.timer.turn())


@pytest.fixture
def process(fleet: MemoryRedis) -> Callable[..., Process]:
    return lambda **settings: Process(fleet, **settings)


@pytest.fixture
def sent(fleet: MemoryRedis) -> list[bytes]:
    """The commands of all clients, by name; what carries a report is b"report"."""
    commands: list[bytes] = []
    execute = fleet.execute

    def noted(*words: bytes) -> Any:
        report = words[0].startswith(b"EVAL") and words[1] in (HOT.sha.encode(), HOT.text.encode())
        commands.append(b"report" if report else words[0])
        return execute(*words)

    fleet.execute = noted  # type: ignore[method-assign]
    return commands


# How exact it is.


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.2])
def test_the_fleets_hottest_of_a_million_keys_are_those_of_exact_counts(
    process: Callable[..., Process], clock: SteppedClock, alpha: float, amount: Callable[[int, int], int]
) -> None:
    """Four processes that report in turn. Beside the errors of one process's count, a key's score lacks what is untold:
    less than the least that each process told last."""
    stream, chance = Stream(alpha, amount(300_000, 3_000_000), 60.0), Random(4)
    processes = [process() for _ in range(4)]
    began, least_told = clock(), [0.0] * 4
    for number, each in enumerate(processes):
        told = each.process._redis.report  # type: ignore[union-attr]

        async def noted(*args: Any, told: Any = told, number: int = number) -> None:
            least_told[number] = min(gain for _, gain in args[-1])
            assert len(args[-1]) <= popularity.MOST
            await told(*args)

        each.process._redis.report = noted  # type: ignore[union-attr, method-assign]
    for turn, (now, asked) in enumerate(stream.periods(PERIOD / 4)):
        for key, weight in asked:
            stream.ask(chance.choice(processes).cache.table, key, weight)
        clock.step(began + now - clock())
        processes[turn % 4].report()
    for each in processes:
        each.report()
    found = processes[0].cache.hot(20, fleet=True)
    reached = 1 - 2.0 ** (-stream.seconds / HALF_LIFE)
    lag = (1 - 2.0 ** (-PERIOD / HALF_LIFE)) / (PERIOD / HALF_LIFE * math.log(2))
    counted = math.log(2) / HALF_LIFE / reached / lag
    least, most = (factor * (1 + error) for factor, error in zip(spread(PERIOD), (-1e-5, 1e-5), strict=True))
    untold, everything = sum(least_told), stream.exact.total() - stream.misses.total()
    for key, rate, share in found:
        hits = stream.exact[key] - stream.misses[key]
        assert stream.misses[key] <= 4
        assert least * hits - untold <= rate / counted <= most * hits
        assert share * everything == pytest.approx(rate / counted, rel=most - least)
    last = found[-1].rate / counted
    for key, weight in stream.exact.most_common(20):
        assert key in {each.key for each in found} or least * (weight - stream.misses[key]) - untold <= last


def test_processes_on_a_real_redis_add_up(redis_server: RedisServer, namespace: str) -> None:
    """Each hit that a process has told is in the fleet's sum, once; the sum and what is untold are exact."""
    asking = [members.Member(members.asks, redis_server.url, namespace, seed) for seed in range(3)]
    heard = [each.hear() for each in asking]
    for each in asking:
        each.end()
    exact, untold = Counter[str](), Counter[str]()
    for hits, rest, reports, stats in heard:
        exact.update(hits)
        untold.update(rest)
        assert reports >= 3
        assert stats["unreported"] == 0
    with Cache(redis_server.url, namespace=namespace) as cache:
        found = cache.hot(20, fleet=True)
    assert len(found) == 20
    told = {each.key: each.share * exact.total() for each in found}
    for key, number in told.items():
        assert number == pytest.approx(exact[key] - untold[key], rel=1e-3)
    for key, number in exact.most_common(20):
        assert key in told or number - untold[key] <= min(told.values()) * 1.001


# When it is told, and by whom.


def test_nothing_is_sent_where_nothing_was_hit(
    process: Callable[..., Process], clock: SteppedClock, sent: list[bytes]
) -> None:
    """One command in a period with hits, at most; none in the others, and none of a caller's."""
    one = process()
    one.cache.set("a", 1)
    hit(one.cache, "a")
    assert b"report" not in sent
    clock.step(PERIOD)
    one.turn()
    assert b"report" not in sent
    clock.step(PERIOD)
    one.turn()
    assert sent.count(b"report") == 2  # the server did not know the script
    sent.clear()
    for _ in range(50):
        clock.step(PERIOD)
        one.turn()
    assert sent == []
    for _ in range(9):
        hit(one.cache, "a", 1000)
        for _ in range(5):
            clock.step(PERIOD / 5)
            one.turn()
    assert sent == [b"report"] * 9


def test_processes_report_at_times_of_their_own(process: Callable[..., Process], clock: SteppedClock) -> None:
    """Spread over the period, so that many which start at once do not go on so."""
    processes = [process() for _ in range(100)]
    firsts = [each.node.timer._appointed[0][0] - clock() for each in processes]
    assert all(PERIOD <= first <= 2 * PERIOD for first in firsts)
    assert max(firsts) - min(firsts) > PERIOD / 2


def test_a_process_that_is_gone_fades(process: Callable[..., Process], clock: SteppedClock, fleet: MemoryRedis) -> None:
    """By half-lives; the others' keys stay. When nobody reports any more, nothing is left."""
    dead, alive = process(), process()
    for each, key in ((dead, "dead"), (alive, "alive")):
        each.cache.set(key, 1)
    for second in range(200):
        for each, key in ((dead, "dead"), (alive, "alive")):
            hit(each.cache, key, 8)
        clock.step(1.0)
        if second % 5 == 4:
            dead.report()
            alive.report()
    shares = {each.key: each.share for each in alive.cache.hot(fleet=True)}
    assert shares == {"dead": pytest.approx(0.5), "alive": pytest.approx(0.5)}
    [before] = [each for each in alive.cache.hot(fleet=True) if each.key == "dead"]
    dead.cache.close()
    for second in range(60):
        hit(alive.cache, "alive", 8)
        clock.step(1.0)
        if second % 5 == 4:
            alive.report()
    now = {each.key: each for each in alive.cache.hot(fleet=True)}
    assert now["dead"].rate == pytest.approx(before.rate / 2, rel=0.1)
    assert now["alive"].rate == pytest.approx(8, rel=0.07)
    names = [name.encode() for name in Names("default").popularity]
    assert set(names) <= set(fleet.db.names())
    clock.step(10 * HALF_LIFE + 1)
    assert alive.cache.hot(fleet=True) == []
    assert not set(names) & set(fleet.db.names())


def test_rates_are_those_of_all_processes(process: Callable[..., Process], clock: SteppedClock) -> None:
    """On average over the moments at which one asks; keys that stand for a digest are shown so, as by one process."""
    processes, long = [process() for _ in range(4)], "long" * 100
    for each in processes:
        each.cache.set_many({"a": 1, long: 2})
    rates: list[float] = []
    for tick in range(1200):
        for each in processes:
            hit(each.cache, "a", 2)
            hit(each.cache, long, 1)
        clock.step(0.25)
        if tick % 5 == 4:
            processes[tick // 5 % 4].report()
        if tick > 600:
            first, second = processes[0].cache.hot(fleet=True)
            assert isinstance(first, Hot)
            assert (first.key, second.key) == ("a", processes[0].cache.hot()[1].key)
            assert first.rate == pytest.approx(4 * 8, rel=0.06)
            assert second.share == pytest.approx(1 / 3, rel=1e-3)
            rates.append(first.rate)
    assert sum(rates) / len(rates) == pytest.approx(4 * 8, rel=0.01)


def test_a_child_reports_its_own_hits(redis_server: RedisServer, namespace: str) -> None:
    """Those before the fork are its parent's, whether it has told them or not; nothing is counted twice."""
    member = members.Member(forks.with_popularity, redis_server.url, namespace)
    hits, found = member.hear()
    member.end()
    assert hits["parent"] == 150
    assert found == {key: pytest.approx(number / sum(hits.values()), rel=1e-3) for key, number in hits.items()}


def test_a_closed_cache_reports_no_more(
    process: Callable[..., Process], clock: SteppedClock, sent: list[bytes], make_cache: Callable[..., Cache]
) -> None:
    """No thread is left behind either."""
    one = process()
    one.cache.set("a", 1)
    hit(one.cache, "a", 5)
    one.cache.close()
    clock.step(3 * PERIOD)
    one.turn()
    assert b"report" not in sent
    assert one.node.timer._appointed == []
    make_cache().get("a")  # whose fixture sees that no thread is left


# What may be amiss.


class Mute:
    """Links that do not answer, as long as they are told so."""

    def __init__(self, one: Process) -> None:
        self._exchange = one.node.links.exchange
        self.down = False
        self.asked = 0
        one.node.links.exchange = self

    def __call__(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        self.asked += 1
        if self.down:
            raise Unanswered("no answer")
        return self._exchange(packed, replies, timeout)  # type: ignore[no-any-return]


def test_a_redis_that_is_down_is_asked_with_the_breakers_patience(
    process: Callable[..., Process], clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What a report held that was not answered is lost and counted; while the breaker is open the hits wait."""
    one = process()
    one.process._redis.breaker._draw = lambda: 1.0  # type: ignore[union-attr]
    one.cache.set("a", 1)
    links = Mute(one)
    links.down = True
    with caplog.at_level(logging.DEBUG, "tiercache"):
        for _ in range(3):
            hit(one.cache, "a", 10)
            one.report()
        assert one.cache.stats()["unreported"] == 3
        assert len(caplog.messages) == 1
        assert "circuit breaker is open" in caplog.messages[0]
        asked = links.asked
        for _ in range(20):
            hit(one.cache, "a", 1)
            one.report()
        assert links.asked == asked
        with pytest.raises(RemoteUnavailable, match="hot: the circuit breaker is open"):
            one.cache.hot(fleet=True)
        links.down = False
        clock.step(10.0)
        one.report()
    assert one.cache.stats()["unreported"] == 3
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # open, closed
    [found] = one.cache.hot(fleet=True)
    assert (found.key, found.share) == ("a", pytest.approx(1.0))
    score = found.rate / (math.log(2) / HALF_LIFE / (1 - 2.0 ** (-10 / HALF_LIFE)))
    assert 18 < score < 22  # the twenty that waited, and none of the thirty


@pytest.mark.parametrize("code", ["NOPERM", "OOM", "READONLY", "WRONGTYPE", "REPLY"])
def test_a_refused_report_is_said_once_and_tried_rarely(
    process: Callable[..., Process], clock: SteppedClock, fleet: MemoryRedis, sent: list[bytes], code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Callers go on as before, and nothing of theirs is counted as refused."""
    one, refusing = process(), True
    execute = fleet.execute

    def refuses(*words: bytes) -> Any:
        reply = execute(*words)
        report = refusing and sent[-1] == b"report"
        return (b"what" if code == "REPLY" else Refusal(f"{code} no")) if report else reply

    fleet.execute = refuses  # type: ignore[method-assign]
    one.cache.set("a", 1)
    caplog.set_level(logging.DEBUG, "tiercache")
    tries = []
    for tick in range(int(4 * REFUSED / PERIOD)):
        hit(one.cache, "a", 10)
        before = sent.count(b"report")
        clock.step(PERIOD)
        one.turn()
        if sent.count(b"report") > before:
            tries.append(tick * PERIOD)
    assert [later - one for one, later in pairwise(tries)] == [REFUSED] * (len(tries) - 1)
    stats = one.cache.stats()
    assert stats["unreported"] == len(tries) > 2
    assert (stats["bypass_refused"], stats["breaker_opened"]) == (0, 0)
    said = [text for text in caplog.messages if "which keys are popular" in text]
    assert len(said) == 1
    assert code in said[0]
    refusing = False
    clock.step(REFUSED)
    one.turn()
    assert one.cache.stats()["unreported"] == len(tries)
    assert [each.key for each in one.cache.hot(fleet=True)] == ["a"]
    refusing = True
    clock.step(PERIOD)
    hit(one.cache, "a")
    one.turn()
    assert len([text for text in caplog.messages if "which keys are popular" in text]) == 2


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    faces = []

    def make(cache: Cache) -> Any:
        faces.append(request.param(cache))
        return faces[-1]

    yield make
    for each in faces:
        each.close()


def test_both_colours_are_told_the_same(face: Any, process: Callable[..., Process], clock: SteppedClock) -> None:
    """Of this process and of the fleet; at most as many as are asked for, and as Redis keeps."""
    one = process()
    cache = face(one.cache)
    cache.set_many({f"k{n}": n for n in range(1500)})
    for turn in range(20):
        for n in range(1500):
            hit(one.cache, f"k{n}", 1 + (n // 100 == turn))
        one.report()
    assert [each.key for each in cache.hot(3)] == [each.key for each in one.cache.hot(3)]
    assert len(cache.hot(7, fleet=True)) == 7
    assert 900 <= len(cache.hot(5000, fleet=True)) <= 1000
    assert cache.hot(0, fleet=True) == []
    for fleet in (False, True):
        with pytest.raises(ValueError, match="n=-1"):
            cache.hot(-1, fleet=fleet)


def test_without_redis_there_is_no_fleet(face: Any) -> None:
    """It is said, and that this process is all."""
    cache = face(Cache())
    with pytest.raises(ValueError, match="no Redis"):
        cache.hot(fleet=True)
    with pytest.raises(ValueError, match="no Redis"):
        cache.hot(0, fleet=True)
    assert cache.hot() == []


def test_a_redis_that_can_not_be_reached_is_remote_unavailable(face: Any, make_cache: Callable[..., Cache]) -> None:
    """As for every call that needs it."""
    cache = face(make_cache(f"redis://127.0.0.1:{free_port()}", connect_timeout=0.2, call_timeout=0.2))
    with pytest.raises(RemoteUnavailable, match="hot: "):
        cache.hot(fleet=True)


def test_what_is_foreign_is_remote_unavailable(
    face: Any, make_cache: Callable[..., Cache], redis_server: RedisServer
) -> None:
    """And is not touched."""
    cache = make_cache()
    with redis_server.client() as client:
        client.set(Names(cache.namespace).popularity[0], "theirs")
        with pytest.raises(RemoteUnavailable, match="WRONGTYPE"):
            face(cache).hot(fleet=True)
        assert client.get(Names(cache.namespace).popularity[0]) == b"theirs"


def test_a_store_of_the_users_reports_nothing_but_may_ask(
    fleet: MemoryRedis, process: Callable[..., Process], clock: SteppedClock
) -> None:
    """Its hits are not counted; what others told is there for all."""
    own, one = process(store=cachetools.LRUCache(10)), process()
    assert own.node.timer._appointed == []
    one.cache.set("a", 1)
    hit(one.cache, "a", 5)
    hit(own.cache, "a", 5)
    one.report()
    assert [each.key for each in own.cache.hot(fleet=True)] == ["a"]
    with pytest.raises(TypeError, match="not counted"):
        own.cache.hot()


def test_namespaces_do_not_mix(process: Callable[..., Process]) -> None:
    """Each has its own."""
    one, other = process(), process(namespace="other")
    one.cache.set("a", 1)
    hit(one.cache, "a", 5)
    one.report()
    assert [each.key for each in one.cache.hot(fleet=True)] == ["a"]
    assert other.cache.hot(fleet=True) == []
