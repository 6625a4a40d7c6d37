"""Hostile data wherever tiercache reads: nothing but documented errors comes out, and every oddity is counted."""

import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import fuzzed
import pytest
from both import FACES
from fuzzed import picture
from redis_server import RedisServer
from tier2 import FakeRedis

from tiercache import Cache, CodecError, LoadFailed, LoadTimeout, Policy, RemoteUnavailable
from tiercache.codec import MsgpackCodec
from tiercache.local.record import VALUE, Record, unpack
from tiercache.local.record import found as found_in
from tiercache.local.table import Raises, Table
from tiercache.port import Cooldown, Message, RemoteRefused
from tiercache.remote import answers, breaker
from tiercache.remote.breaker import Breaker
from tiercache.remote.calls import Calls
from tiercache.remote.client import RedisRemote
from tiercache.remote.commands import Names
from tiercache.remote.inbox import Inbox, Slots
from tiercache.values import Values

POLICY = Policy(negative_errors=(LookupError, ArithmeticError))
LIMIT = 100_000
GOOD = Record(VALUE, 1, 0, 20_000, 40_000, 5, b"12345678", MsgpackCodec().encode("another's")).pack()
PROPER = {b"PTTL": b":-2\r\n", b"GET": b"$-1\r\n", b"GETRANGE": b"$-1\r\n"}


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Iterator[Counter[str]]:
    """What the cases came to; recorded, so that it shows whether they reached what they were made for."""
    counter: Counter[str] = Counter()
    yield counter
    for name, number in counter.items():
        record_property(name, number)


@pytest.fixture
def cases(amount: Callable[[int, int], int], seen: Counter[str]) -> int:
    seen["cases"] = amount(3_000, 180_000)
    return seen["cases"]


class PromptRedis(FakeRedis):
    """Sends each reply at once."""

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super()._serve(connection)


# Pieces.


def test_any_payload_is_a_value_or_a_codec_error(cases: int, seen: Counter[str]) -> None:
    """What was decoded can be encoded again, unless it nests too deep for that."""
    codec = MsgpackCodec()

    def check(data: bytes) -> None:
        try:
            value = codec.decode(data)
        except CodecError:
            seen["codec_errors"] += 1
        else:
            assert picture(codec.decode(codec.encode(value))) == picture(value)
            seen["values"] += 1

    fuzzed.fuzz(fuzzed.payload, check, cases)
    assert min(seen["codec_errors"], seen["values"]) > cases / 100


def test_any_bytes_are_a_record_that_opens_or_is_refused(cases: int, seen: Counter[str]) -> None:
    """No lifetime is longer than Redis's own, no value larger than the limit; CodecError for the rest."""
    values = Values(MsgpackCodec(), None, 0, LIMIT)

    def check(data: bytes) -> None:
        found = found_in(30_000, data)
        record = unpack(data)
        if record is None:
            assert found is None
            seen["no_records"] += 1
            return
        assert found is not None
        assert found.record is not None
        assert 0 <= found.remaining <= 30
        assert found.record.fresh_ms <= found.record.hard_ms
        assert len(record.pack()) == len(data)
        try:
            value, size = values.open(found.record, POLICY)
        except CodecError:
            seen["codec_errors"] += 1
        else:
            assert 0 <= size <= LIMIT
            assert not isinstance(value, Raises) or isinstance(value.error, POLICY.negative_errors)
            seen["values"] += 1

    fuzzed.fuzz(fuzzed.record, check, cases)
    assert min(seen["no_records"], seen["codec_errors"], seen["values"]) > cases / 100


def test_any_message_is_taken_or_counted(cases: int, seen: Counter[str]) -> None:
    """An inbox message cuts one key, reaches one slot, or is undecodable: exactly one of these."""
    table, slots, told = Table(), Slots(), []
    slot = slots.open("k")

    def invalid(key: str, id: bytes) -> None:
        table.cut(key, id)
        told.append("invalid")

    inbox = Inbox(
        lambda: pytest.fail("it is not started"), ("tc1:in:me", "tc1:iv:ns"), slots, up=list, down=list,
        invalid=invalid, unquiet=lambda key: (table.unquiet(key), told.append("message")),
        count=lambda name: told.append(name), draw=lambda: 0.5, patience=1.0,
    )  # fmt: skip

    def check(reply: Any) -> None:
        told.clear()
        slot.clear()
        inbox._take(reply)
        message = isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message"
        assert len(told) == message
        assert all(isinstance(each, Message) for each in slot.messages)
        seen.update(told)

    def make(chance: random.Random) -> Any:
        if chance.random() < 0.2:
            return fuzzed.reply(chance)
        channel = chance.choice([b"tc1:in:me", b"tc1:in:me", b"tc1:iv:ns", b"tc1:iv:ns", b"other", None, 3])
        return [b"message", channel, chance.choice([fuzzed.message, fuzzed.message, fuzzed.reply])(chance)]

    fuzzed.fuzz(make, check, cases)
    assert min(seen["invalid"], seen["message"], seen["undecodable"]) > cases / 100


def test_any_description_of_a_failure_is_a_cooldown(cases: int, seen: Counter[str]) -> None:
    """An unreadable one is a short cooldown, and counted."""
    remote = RedisRemote(
        Names("ns"), Breaker(float, float), float, lambda name: seen.update([name]), call_timeout=1.0, push_bytes=0
    )

    def check(message: Any) -> None:
        before = seen["undecodable"]
        failure = remote.failure(message)
        assert isinstance(failure, Cooldown)
        assert failure.reason == "failed"
        assert 0 <= failure.left <= 10**9
        assert max(len(failure.type_name), len(failure.message)) <= 200
        if seen["undecodable"] == before:
            seen["readable"] += 1
        else:
            assert failure.left == 0.1

    fuzzed.fuzz(lambda chance: chance.choice([fuzzed.message, fuzzed.reply])(chance), check, cases)
    assert min(seen["undecodable"], seen["readable"]) > cases / 100


def test_any_reply_is_an_answer_or_refused(cases: int, seen: Counter[str]) -> None:
    """Every parser of a script's answer; the only error that comes out is RemoteRefused."""
    calls = Calls(Breaker(float, float), float, lambda name: None, 1.0)
    parsers = [answers.election, answers.verdict, answers.pause, answers.done]

    def check(reply: Any) -> None:
        for parser in parsers:
            try:
                calls.parsed(parser, reply)
                seen["answers"] += 1
            except RemoteRefused:
                seen["refused"] += 1
        left, data = [*reply, None, None][:2] if isinstance(reply, list) else (reply, reply)
        for found in (found_in(left, data), answers.oversized(left, data)):
            assert found is None or 0 <= found.remaining < 2**61

    fuzzed.fuzz(fuzzed.reply, check, cases)
    assert min(seen["answers"], seen["refused"]) > cases / 100


# The whole cache.


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_any_record_in_redis_is_a_value_or_a_counted_miss(
    make_cache: Callable[..., Cache], redis_server: RedisServer, namespace: str, face: Any,
    amount: Callable[[int, int], int], seen: Counter[str],
) -> None:  # fmt: skip
    """A planted record reads as its value, or as nothing; then one load replaces it. No call raises."""
    patient = {"connect_timeout": 9, "call_timeout": 9, "call_budget": 19}
    cache = face(make_cache(max_value_bytes=LIMIT, policy=POLICY.override({"beta": 0}), **patient))
    values, names = Values(MsgpackCodec(), None, 0, LIMIT), Names(namespace)
    loader = cache.loader(lambda: "loaded")

    def check(data: bytes) -> None:
        client.set(names.value("k"), data, px=60_000)
        cache.clear_local()
        record, expected, before = unpack(data), [], cache.stats()
        if record is not None:
            try:
                expected = [picture(values.open(record, POLICY)[0])]
            except CodecError:
                pass
        got = cache.get("k", "default")
        assert got == "default" or [picture(got)] == expected
        assert all([picture(each)] == expected for each in cache.get_many(["k"]).values())
        try:
            loaded = cache.get_or_load("k", loader)
            assert loaded == "loaded" or [picture(loaded)] == expected
        except POLICY.negative_errors:
            assert expected[0][0] == "Raises"
        after = cache.stats()
        assert after["undecodable"] > before["undecodable"] or expected
        assert after["loads"] - before["loads"] <= 1
        assert not any(after[name] for name in after if name.startswith("bypass_"))
        seen["hits" if got != "default" else "undecodable" if not expected else "expired"] += 1

    with redis_server.client() as client:
        cache.ping()
        seen["cases"] = amount(1_500, 50_000)
        fuzzed.fuzz(fuzzed.record, check, seen["cases"])
    cache.close()
    assert min(seen["hits"], seen["undecodable"]) > 20


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_any_server_costs_no_value(
    make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch, face: Any,
    amount: Callable[[int, int], int], seen: Counter[str],
) -> None:  # fmt: skip
    """Whatever bytes a server answers: reads never raise, loads give a value, writes say RemoteUnavailable."""
    monkeypatch.setattr(breaker, "TRIPS", 2**62)  # or most cases would not be asked
    script: list[bytes | None] = []  # None hangs up, b"" is answered as it should be
    policy = POLICY.override({"timeout": 0.02, "lease": 0.1, "max_load": 1.0, "error_backoff": 0.001})

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"SUBSCRIBE":
            return b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" * (len(command) - 1)
        odd = script.pop(0) if script else b""
        return odd if odd != b"" else PROPER.get(command[0], b"*1\r\n$2\r\nOK\r\n")

    def check(odd: list[bytes | None]) -> None:
        calls = {
            "get": lambda: cache.get("k", "default"),
            "get_many": lambda: cache.get_many(["k", "l"]),
            "get_or_load": lambda: cache.get_or_load("k", loader),
            "refresh": lambda: cache.refresh("k", loader),
            "set": lambda: cache.set("k", "set"),
            "invalidate": lambda: cache.invalidate("k", "l"),
            "ping": lambda: cache.ping(),
        }
        for name, call in calls.items():
            script[:] = odd
            cache.clear_local()
            try:
                call()
                seen[name] += 1
            except RemoteUnavailable:
                assert name in ("set", "invalidate", "ping")
                seen["unavailable"] += 1
            except (LoadFailed, LoadTimeout, *POLICY.negative_errors) as error:
                assert name in ("get_or_load", "refresh")
                seen[type(error).__name__] += 1

    with PromptRedis(answer) as server:
        settings = {"connect_timeout": 9, "call_timeout": 0.02, "call_budget": 0.1}
        cache = face(make_cache(server.url, max_value_bytes=LIMIT, policy=policy, **settings))
        loader = cache.loader(lambda: "loaded")
        seen["cases"] = amount(150, 10_000)
        for seed in range(seen["cases"]):
            chance = random.Random(seed)
            check([chance.choice([b"", None, *[fuzzed.resp(chance)] * 3]) for _ in range(chance.randrange(5))])
        cache.close()
    assert min(seen[name] for name in ("get", "get_many", "get_or_load", "set", "invalidate", "unavailable")) > 0


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_what_nobody_asked_for_answers_nobody(make_cache: Callable[..., Cache], face: Any) -> None:
    """A server that says more than it was asked: no call is given another's answer, and nothing is kept."""
    stray = b":60000\r\n$%d\r\n%b\r\n" % (len(GOOD), GOOD)

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"SUBSCRIBE":
            return b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" * (len(command) - 1)
        return PROPER[command[0]] + (stray if command[0] == b"GET" else b"")

    with PromptRedis(answer) as server:
        cache = face(make_cache(server.url, connect_timeout=9, call_timeout=9, call_budget=19))
        for n in range(20):
            assert cache.get(f"k{n}", "default") == "default"
        cache.close()
