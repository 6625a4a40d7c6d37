"""References and memory blocks after every way in which a compiled operation can raise: all are given back."""

import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cachetools
import pytest

from tiercache.local.alias import Aliases
from tiercache.local.face import Call, Face, by_vectorcall
from tiercache.local.flight import Flight
from tiercache.local.foreign import Foreign
from tiercache.local.lru import LRU
from tiercache.local.packing import pack, pack_read
from tiercache.local.ready import Ready
from tiercache.local.record import Found, Record, found, milliseconds, unpack
from tiercache.local.run import run
from tiercache.local.table import Mode, Raises, Table
from tiercache.local.trip import trip
from tiercache.local.worth import worth
from tiercache.local.xfetch import clamp, due, window
from tiercache.policy import Policy

FORCE = int(Mode.FORCE)
POLICY = Policy()
ROUNDS = 200


class Boom(Exception):
    """What the callbacks of these tests raise."""


class Interrupt(BaseException):
    """What stands for Ctrl-C."""


def boom(*_: Any, **__: Any) -> Any:
    raise Boom("on purpose")


def interrupt(*_: Any) -> Any:
    raise Interrupt


class Hostile:
    """An object whose every hook raises."""

    __hash__ = __eq__ = __float__ = __index__ = __int__ = __bool__ = __len__ = __iter__ = boom  # type: ignore[assignment]
    __lt__ = __gt__ = boom


class Clash:
    """Hashable, and raises where it is compared with another of the same hash."""

    __eq__ = boom  # type: ignore[assignment]

    def __hash__(self) -> int:
        return 7


class BadCache(cachetools.Cache):  # type: ignore[type-arg]
    """A user's store; the named methods raise."""

    def __init__(self, *names: str) -> None:
        super().__init__(4)
        self.names: tuple[str, ...] = names

    def __getitem__(self, key: str) -> Any:
        return boom() if "get" in self.names else super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if "set" in self.names:
            boom()
        super().__setitem__(key, value)

    def __contains__(self, key: object) -> bool:
        return boom() if "in" in self.names else super().__contains__(key)

    def __len__(self) -> int:
        return boom() if "len" in self.names else super().__len__()

    def __iter__(self) -> Iterator[str]:
        return boom() if "iter" in self.names else super().__iter__()

    def pop(self, key: str, *default: Any) -> Any:
        return boom() if "pop" in self.names else super().pop(key, *default)


class Shop(Face):
    """A face whose long ways raise."""

    _get = _get_or_load = _aget = _aget_or_load = boom


@by_vectorcall
class Function(Call):
    _call = boom

    def __init__(self, face: Face) -> None:
        super().__init__(face, False, Aliases(4))


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Leave what was there before out of this file's many collections."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def name(text: str) -> str:
    """A key that nobody else holds."""
    return "".join(["refcount:", text])


def fill(value: Any, **ends: Any) -> tuple[Any, ...]:
    given = {"fresh": 100.0, "hard": 100.0, "verify": 100.0, "delta": 0.0, "beta": 1.0, "epoch": 1, "id": b"12345678"}
    return (value, *(given | {"weight": 3} | ends).values())


def put(table: Table, key: str, value: Any, **ends: Any) -> None:
    flight = table.probe(key, 0.0, mode=FORCE)[-1]
    table.settle(flight, value, fill(value, **ends))


def filled(store: Any = None) -> Table:
    """A table that holds one value."""
    table = Table(4, 100 if store is None else None, store)
    put(table, name("k"), [1])
    return table


HOSTILE = Hostile()
RECORD = Record(0, 1, 0, 1_000, 2_000, 5, b"12345678", b"x")
KEY, ODD_KEYS = name("k"), [1, None, b"k", type("Key", (str,), {})("k"), HOSTILE]
BAD_FILLS = [
    (),
    ([1],) * 10,
    *(fill([1], **{end: bad}) for end in ("fresh", "hard", "verify", "delta", "beta") for bad in ("x", HOSTILE)),
    *(fill([1], epoch=bad) for bad in (-1, 2**32, "x", HOSTILE)),
    *(fill([1], id=bad) for bad in ("x", None, b"123456789", HOSTILE)),
    *(fill([1], weight=bad) for bad in ("x", None, HOSTILE)),
]
KEYED: dict[str, Callable[[Table, Any], object]] = {
    "probe": lambda table, key: table.probe(key, 0.0),
    "peek": lambda table, key: table.peek(key),
    "cut": lambda table, key: table.cut(key),
    "quiet": lambda table, key: table.quiet(key, 9.0, 0.0),
    "unquiet": lambda table, key: table.unquiet(key),
    "count": lambda table, key: table.count(key),
    "Flight": lambda table, key: Flight(key),
}
NUMBERED: dict[str, Callable[[Table, Any], object]] = {
    "probe's now": lambda table, bad: table.probe(KEY, bad),
    "probe's draw": lambda table, bad: table.probe(KEY, 0.0, bad),
    "probe's swr": lambda table, bad: table.probe(KEY, 0.0, 1.0, bad),
    "probe's beta": lambda table, bad: table.probe(KEY, 0.0, 1.0, 0.0, bad),
    "probe's mode": lambda table, bad: table.probe(KEY, 0.0, mode=bad),
    "quiet's until": lambda table, bad: table.quiet(KEY, bad, 0.0),
    "quiet's now": lambda table, bad: table.quiet(KEY, 0.0, bad),
    "cut's id": lambda table, bad: table.cut(KEY, bad),
    "writing's id": lambda table, bad: table.writing(Flight(KEY), bad),
    "count's n": lambda table, bad: table.count("n", bad),
    "an LRU's bound": lambda table, bad: LRU(bad),
    "an LRU's bytes": lambda table, bad: LRU(1, bad),
    "a table's bytes": lambda table, bad: Table(1, bad),
    "due": lambda table, bad: due(bad, 1.0, 1.0),
    "window": lambda table, bad: window(bad),
    "clamp's delta": lambda table, bad: clamp(bad, 1.0),
    "clamp's ttl": lambda table, bad: clamp(1.0, bad),
    "a record's kind": lambda table, bad: RECORD._replace(kind=bad),
    "a record's lifetime": lambda table, bad: RECORD._replace(hard_ms=bad),
    "a record's id": lambda table, bad: RECORD._replace(id=bad),
    "a record's birth": lambda table, bad: RECORD.ends(bad, 1.0),
    "a record's rest": lambda table, bad: RECORD.ends(1.0, bad),
    "what is found": lambda table, bad: Found(bad, 1.0),
    "its rest": lambda table, bad: Found(RECORD, bad),
    "unpack": lambda table, bad: unpack(bad),
    "what is left": lambda table, bad: found(bad, RECORD.pack()) and boom(),
    "a payload's codec": lambda table, bad: RECORD.plain(bad, 9) or boom(),
    "a payload's bound": lambda table, bad: RECORD.plain(1, bad),
    "worth's record": lambda table, bad: worth(bad, 1, 1, POLICY, 0.0, 1, 0.0),
    "worth's policy": lambda table, bad: worth(Found(RECORD, 1.0), 1, 1, bad, 0.0, 1, 0.0),
    "worth's now": lambda table, bad: worth(Found(RECORD, 1.0), 1, 1, POLICY, 0.0, 1, bad),
    "run": lambda table, bad: run(bad),
    "pack_read": lambda table, bad: pack_read(bad if bad is HOSTILE else "\ud800"),
    "pack": lambda table, bad: pack(b"GET", "x", bad, "\ud800"),
    "milliseconds": lambda table, bad: milliseconds(bad),
    "trip's socket": lambda table, bad: trip(bad, b"q", 1, 1.0),
    "trip's question": lambda table, bad: trip(-1, bad, 1, 1.0),
    "trip's count": lambda table, bad: trip(-1, b"q", bad, 1.0),
    "trip's seconds": lambda table, bad: trip(-1, b"q", 1, bad),
}
# What of a user's store raises -> what uses it.
STORES: dict[tuple[str, ...], list[str]] = {
    ("get",): ["probe", "peek", "cut", "quiet", "unquiet"],
    ("in",): ["probe", "peek", "cut", "quiet", "unquiet", "settle"],
    ("set",): ["settle"],
    ("set", "pop"): ["settle"],
    ("len",): ["settle", "stats"],
    ("iter",): ["clear", "stats"],
    ("pop",): ["cut", "expire"],
}


def settled(table: Table, bad: Any) -> None:
    table.settle(table.probe(name("new"), 0.0)[1], [2], bad)


def woken(table: Table, *wakers: Any) -> None:
    flight = table.probe(name("new"), 0.0)[1]
    for number, waker in enumerate(wakers):
        flight.follow(number, waker)
    table.settle(flight, [2], fill([3]))


def left(cancel: Any) -> None:
    flight = Flight(KEY)
    flight.cancel = cancel
    flight.follow(None, list)
    flight.leave()
    boom()


def followed(*who: Any) -> None:
    flight = Flight(KEY)
    for each in who:
        flight.follow(each, list)


def thrown(*given: Any) -> None:
    Ready([1]).throw(*given)


def stored(names: tuple[str, ...], use: Callable[[Table], object]) -> Callable[[], object]:
    cache = BadCache()
    table = Table(store=cache)
    put(table, name("k"), [1])
    cache.names = names
    return lambda: use(table)


def shop(clock: Any = lambda: 0.0, held: str = KEY) -> Shop:
    face = Shop(Table(), clock)
    put(face.table, held, [1])
    return face


def operations() -> Iterator[tuple[str, Callable[[], object]]]:
    table = filled()
    for what, keyed in KEYED.items():
        for key in ODD_KEYS[: -1 if what == "count" else None]:
            yield f"{what} of {type(key).__name__}", lambda call=keyed, key=key: call(table, key)
    for what, numbered in NUMBERED.items():
        for bad in ("x", HOSTILE):
            yield f"{what} {type(bad).__name__}", lambda call=numbered, bad=bad: call(filled(), bad)
    for number, bad_fill in enumerate(BAD_FILLS):
        yield f"settle with bad fill {number}", lambda bad=bad_fill: settled(filled(), bad)
    yield "settle of no flight", lambda: table.settle(None, [1])  # type: ignore[arg-type]
    yield "settle with no tuple", lambda: table.settle(Flight(KEY), [1], [1])  # type: ignore[arg-type]
    yield "settle with raising and interrupted wakers", lambda: woken(filled(), boom, interrupt, boom)
    yield "settle with raising wakers", lambda: (woken(filled(), boom, HOSTILE), boom())
    yield "cut with a long id", lambda: table.cut(KEY, b"123456789")
    yield "writing a long id", lambda: table.writing(Flight(KEY), b"123456789")
    yield "an LRU of nothing", lambda: LRU(0)
    yield "a table on no cache", lambda: Table(store=object()).peek(KEY)
    yield "Raises of nothing", lambda: Raises()  # type: ignore[call-arg]
    yield "a foreign store of nothing", lambda: Foreign()  # type: ignore[call-arg]
    users = KEYED | {
        "settle": lambda table, key: settled(table, fill([1])),
        "stats": lambda table, key: table.stats(),
        "clear": lambda table, key: table.clear(),
        "expire": lambda table, key: table.probe(key, 1e9),
    }
    for names, uses in STORES.items():
        for use in uses:
            call = stored(names, lambda table, use=users[use]: use(table, name("k")))
            yield f"{use} with a store whose {'+'.join(names)} raises", call
    for clock in (boom, lambda: "x", lambda: HOSTILE, interrupt):
        face = shop(clock)
        yield "get by a bad clock", partial(face.get, KEY)
        yield "aget by a bad clock", partial(face.aget, KEY)
        yield "get_or_load by a bad clock", partial(face.get_or_load, KEY, list)
        yield "aget_or_load by a bad clock", partial(face.aget_or_load, KEY, list)
    face = shop()
    for key in (*ODD_KEYS, name("absent")):
        yield f"get of {type(key).__name__}", partial(face.get, key)
        yield f"aget of {type(key).__name__}", partial(face.aget, key)
        yield f"get_or_load of {type(key).__name__}", partial(face.get_or_load, key, boom)
        yield f"aget_or_load of {type(key).__name__}", partial(face.aget_or_load, key, boom)
    function = Function(shop())
    function._hit((HOSTILE,), {}, KEY)
    for args in ((HOSTILE,), (1, HOSTILE), ([],), (1.0, "x"), (True,), (name("other"),)):
        yield f"a call with {args!r:.40}", lambda args=args: function(*args)
    yield "a call with keywords", lambda: function(x=HOSTILE)
    yield "a hit of no tuple", lambda: function._hit([1], {}, KEY)  # type: ignore[arg-type]
    yield "a hit of no key", lambda: function._hit((name("a"),), {}, 3)  # type: ignore[arg-type]
    yield "a hit by a bad clock", partial(aliased(), 1)
    yield "a call of no face", lambda: Call(None, False)  # type: ignore[arg-type]
    yield "an unfinished call", lambda: Call.__new__(Call)(1)  # type: ignore[call-arg]
    yield "follow by an unhashable", lambda: followed([])
    yield "follow by a hostile", lambda: followed(HOSTILE)
    yield "follow by two that clash", lambda: followed(Clash(), Clash())
    yield "leave with a raising cancel", lambda: left(boom)
    yield "leave with an interrupted cancel", lambda: left(interrupt)
    yield "next of Ready", lambda: next(Ready([1]))
    yield "next of Ready with a tuple", lambda: next(Ready(([1], 2)))
    yield "next of Ready with an error", lambda: next(Ready(Boom()))
    yield "send to Ready", lambda: Ready([1]).send(None)
    yield "throw an error", lambda: thrown(Boom("x"))
    yield "throw a class and its error", lambda: thrown(Boom, Boom("x"))
    for given in ((Boom,), (Boom, "x"), (3,), (HOSTILE,), (Boom, "x", 5), ()):
        yield f"throw {given!r:.40}", lambda given=given: thrown(*given)


def aliased() -> Function:
    """A function whose alias of 1 leads to a hit, if the clock told the time."""
    healthy = True
    function = Function(shop(lambda: 0.0 if healthy else boom()))
    assert function._hit((1,), {}, KEY) is not NotImplemented
    healthy = False
    return function


@pytest.mark.parametrize(("operation", "call"), [pytest.param(*each, id=each[0]) for each in operations()])
def test_an_operation_that_raises_gives_back_what_it_took(operation: str, call: Callable[[], object]) -> None:
    """No reference to what it was given and no block of memory stays, however often it raises."""
    watched = [HOSTILE, KEY, *ODD_KEYS, *BAD_FILLS, boom, interrupt, list, Boom, fill]

    def repeat(times: int) -> None:
        for _ in range(times):
            try:
                call()
            except (Exception, Interrupt):
                continue
            raise AssertionError(f"{operation} did not raise")

    def measure() -> tuple[list[int], int]:
        gc.collect()
        return [sys.getrefcount(each) for each in watched], sys.getallocatedblocks()

    repeat(ROUNDS // 4)
    references, blocks = measure()
    repeat(ROUNDS)
    after, more = measure()
    assert after == references
    assert more - blocks < ROUNDS // 8
