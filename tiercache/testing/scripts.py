"""The scripts of `tiercache.remote.scripts` once more, in Python; read each beside its Lua.

The same keys, arguments and answers: tests hold the two against each other on a real Redis. Each function is as long
as its script, in the same order.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import msgpack  # type: ignore[import-untyped]

from tiercache.local.record import HEADER, SOFT_INVALID, unpack
from tiercache.remote import commands
from tiercache.remote.resp import Refusal
from tiercache.testing.keyspace import Hash, Keyspace

Publish: TypeAlias = Callable[[bytes, bytes], None]
Script: TypeAlias = Callable[[Keyspace, Publish, list[bytes], list[bytes]], Any]
COOLDOWN_KEPT = 60_000  # ms for which the count of failures outlives its cooldown


def _pack(*words: bytes | int) -> bytes:
    # As cmsgpack does: strings in their shortest form, whatever bytes they hold.
    texts = [word.decode(errors="surrogateescape") if isinstance(word, bytes) else word for word in words]
    packed: bytes = msgpack.packb(texts, unicode_errors="surrogateescape")
    return packed


def _number(text: bytes | None) -> int:
    # What a script takes for a number; anything else ends it.
    try:
        return int(text or b"")
    except ValueError:
        raise Refusal("ERR not a number, in a script") from None


def _tell(publish: Publish, fields: Hash, *words: bytes) -> None:
    for field in fields:
        if field.startswith(b"w:"):
            publish(b"tc1:in:" + field[2:], _pack(*words))


def _usable(data: bytes | None) -> bytes:
    # The id of a record that may be served, else nothing.
    record = unpack(data) if data is not None else None
    return b"" if record is None or record.soft_invalid else record.id


def acquire(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    v, l, f, s = keys  # noqa: E741
    token, attempt, inbox, ms, known = argv
    db.delete(s)

    lease = db.hash(l)
    holder = lease.get(b"t")
    if holder == token:
        n = max(_number(lease.get(b"n")), int(attempt))
        db.hset(l, {b"n": b"%d" % n})
        return [b"GRANTED", n]

    id = _usable(db.get(v))
    if id and id != known and db.pttl(v) > 0:
        return [b"HIT"]

    if holder is not None:
        if inbox:
            db.hset(l, {b"w:" + inbox: b"1"})
        left = db.pttl(l)
        if left < 0:
            left = int(ms)
            db.pexpire(l, left)
        return [b"BUSY", left, holder[:8]]

    failure = db.hash(f)
    left = db.pttl(f) - COOLDOWN_KEPT
    if left > 0:
        return [b"COOLDOWN", left, *(failure.get(name, b"") for name in (b"reason", b"type", b"message"))]

    db.hset(l, {b"t": token, b"n": attempt})
    db.pexpire(l, int(ms))
    return [b"GRANTED", int(attempt)]


def commit(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    v, l, f, s = keys  # noqa: E741
    token, attempt, record, hard, push, key, pause, channel = argv
    id = token[:8]
    stored = db.get(v)
    lease = dict(db.hash(l))
    db.hash(f)

    if _usable(stored) == id:
        db.delete(s)
        return [b"OK"]

    if lease.get(b"t") != token or lease.get(b"n") != attempt:
        db.delete(s)
        if lease.get(b"t") == token:  # an orphan of a delayed duplicate
            db.delete(l)
            _tell(publish, lease, key, id, b"retry", b"")
        return [b"REJECTED"]

    value = record if push == b"1" else b""
    if int(hard) > 0:
        try:
            if record:
                db.set(v, record, int(hard))
            else:
                db.rename(s, v)
                db.pexpire(v, int(hard))
        except Refusal as error:
            why = str(error).encode()
            db.delete(l, s)
            if value:
                _tell(publish, lease, key, id, b"ready", value)
            else:
                db.hset(f, {b"reason": b"unstored", b"type": b"", b"message": why})
                db.pexpire(f, int(pause) + COOLDOWN_KEPT)
                _tell(publish, lease, key, id, b"retry", b"")
            return [b"REFUSED", why]
    else:
        db.delete(s)

    db.delete(l, f)
    _tell(publish, lease, key, id, b"ready", value)
    if channel:
        publish(channel, _pack(key, id))
    return [b"OK"]


def renew(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    if db.hash(keys[0]).get(b"t") != argv[0]:
        return [b"LOST"]
    db.pexpire(keys[0], int(argv[1]))
    return [b"OK"]


def release(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    l, f, s = keys  # noqa: E741
    token, kind, key, base, most, name, text = argv
    db.delete(s)
    lease = dict(db.hash(l))
    if lease.get(b"t") != token:
        if kind == b"failed" and db.hash(f).get(b"by") == token:  # a repeat
            return [b"OK", max(0, db.pttl(f) - COOLDOWN_KEPT)]
        return [b"LOST", 0]

    pause, value = 0, b""
    if kind == b"failed":
        count = _number(db.hash(f).get(b"count", b"0")) + 1
        pause = int(min(int(most), int(base) * 2 ** min(count - 1, 40)))
        failure = {b"count": b"%d" % count, b"reason": b"failed", b"type": name, b"message": text, b"by": token}
        db.hset(f, failure)
        db.pexpire(f, pause + COOLDOWN_KEPT)
        value = _pack(name, text, pause)
    db.delete(l)
    _tell(publish, lease, key, token[:8], kind, value)
    return [b"OK", pause]


def invalidate(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    v, l, f, s = keys  # noqa: E741
    mode, key, channel = argv
    db.delete(s)
    lease = dict(db.hash(l)) if db.type(l) == "hash" else {}
    if lease:
        db.delete(l)
    if db.type(f) == "hash":
        db.delete(f)
    if db.type(v) == "string":
        stored = db.get(v) or b""
        if mode == b"hard":
            db.delete(v)
        elif len(stored) >= HEADER.size and stored.startswith(b"tc\x01") and stored[5] < SOFT_INVALID:
            db.patch(v, stored[:5] + bytes([stored[5] + SOFT_INVALID]) + stored[6:])

    if b"t" in lease:
        _tell(publish, lease, key, lease[b"t"][:8], b"retry", b"")
    publish(channel, _pack(key, b""))
    return [b"OK"]


def write(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    v, l, f, s = keys  # noqa: E741
    record, hard, push, key, channel, id = argv
    lease = dict(db.hash(l))
    db.hash(f)
    db.get(v)

    if record:
        db.set(v, record, int(hard))
    else:
        db.rename(s, v)
        db.pexpire(v, int(hard))

    db.delete(l, f)
    if b"t" in lease:
        _tell(publish, lease, key, lease[b"t"][:8], b"ready", record if push == b"1" else b"")
    publish(channel, _pack(key, id))
    return [b"OK"]


def delegate(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    return [b"NOBODY"]  # no worker can reach a Redis in memory


def only_if(then: Script) -> Script:
    def run(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
        record = unpack(db.get(keys[0]) or b"")
        if (record.id if record is not None and db.pttl(keys[0]) > 0 else b"") != argv[-1]:
            db.delete(keys[3])
            return [b"LOST"]
        return then(db, publish, keys, argv[:-1])

    return run


def _float(text: bytes | None) -> float | None:
    # What tonumber makes of it.
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _written(number: float) -> bytes:
    return b"%.17g" % number


def hot(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    scores, tally = keys
    db.trim(scores, 1000)

    now = db.now() / 1000
    ours, counted, hits = map(float, argv[:3])
    held = db.hash(tally)
    at, began, half, all_ = (_float(held.get(name)) for name in (b"at", b"began", b"half", b"all"))

    if (
        at is None or began is None or half is None or all_ is None
        or not (half > 0 and at < now + half and began < now + half and 0 <= all_ < 1e300)
    ):  # fmt: skip
        db.trim(scores, 0)
        at, began, half, all_ = now, now - counted, ours, 0.0

    halves = (now - at) / half
    weight = 2.0**halves if halves < 1024 else math.inf
    if weight >= 2 or half != ours:
        db.weigh(scores, 1 / weight)
        at, half, all_, weight = now, ours, all_ / weight, 1.0

    for key, gain in zip(argv[3::2], argv[4::2], strict=True):
        db.zincrby(scores, float(gain) * weight, key)
    fields = {b"at": at, b"began": began, b"half": half, b"all": all_ + hits * weight}
    db.hset(tally, {name: _written(number) for name, number in fields.items()})
    for name in keys:
        db.pexpire(name, math.ceil(max(60_000, 10_000 * half)))
    return [b"OK"]


def hottest(db: Keyspace, publish: Publish, keys: list[bytes], argv: list[bytes]) -> Any:
    held, scores = db.hash(keys[1]), db.scores(keys[0])
    tally = [held.get(name) for name in (b"at", b"began", b"half", b"all")]
    found = [word for name in scores.ranked()[::-1][: int(argv[0])] for word in (name, _written(scores[name]))]
    return [
        [b"%d" % (db.now() // 1000), b"%d" % (db.now() % 1000 * 1000)],
        [b"" if each is not None and len(each) > 64 else each for each in tally],
        [b"" if len(each) > 200 else each for each in found],
    ]


SCRIPTS = {
    script.sha.encode(): function
    for script, function in (
        (commands.ACQUIRE, acquire),
        (commands.COMMIT, commit),
        (commands.RENEW, renew),
        (commands.RELEASE, release),
        (commands.INVALIDATE, invalidate),
        (commands.WRITE, write),
        (commands.DELEGATE, delegate),
        (commands.WRITE_IF, only_if(write)),
        (commands.INVALIDATE_IF, only_if(invalidate)),
        (commands.HOT, hot),
        (commands.HOTTEST, hottest),
    )
}
TEXTS = {script.text.encode(): sha.encode() for sha, script in commands.SCRIPTS.items()}
