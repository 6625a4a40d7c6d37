"""Compare and swap on a cache: read, decide, and write if nothing else was written meanwhile.

Other caches' interfaces ask for steps that are atomic in the whole fleet: add, incr, touch, delete with an answer.
Each is a function of what stands in Redis. Tier 1 is not asked, and not filled: what is swapped changes often.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

from tiercache.errors import RemoteUnavailable
from tiercache.local.record import Found
from tiercache.policy import Policy
from tiercache.port import Node, Port, RemoteDown, RemoteRefused
from tiercache.reading import open_record
from tiercache.remote.client import RedisRemote

ABSENT: Any = object()
KEEP: Any = object()
_POLICY = Policy()  # knows no negative errors: nobody swaps those


class Step(NamedTuple):
    """What the caller is told, and what becomes of the value: KEEP it, remove it (ABSENT), or a new one."""

    answer: Any
    value: Any = KEEP
    ttl: float = 0.0


Decide: TypeAlias = Callable[[Any, float], Step]


async def swap(port: Port, key: str, decide: Decide) -> Any:
    """The answer of `decide(value, seconds left)`, once what it wants stands in Redis.

    `decide` gets ABSENT and 0 where there is no value, and runs again if another was faster. Raises what it raises,
    CodecError, and RemoteUnavailable: then it is not certain what stands in Redis.
    """
    node, remote = port.node, cast(RedisRemote, port.node.remote)
    await port.ready()
    try:
        while True:
            port.left = node.call_budget  # for each turn: another's turn was not ours
            found = await remote.read(port, key)
            answer, value, ttl = decide(*_seen(node, key, found))
            if value is KEEP:
                return answer
            record = None
            if value is not ABSENT:
                id = node.token()[:8]
                record, _ = node.values.pack(key, value, id=id, fresh=ttl, hard=ttl, delta=0.0)
            known = found.record.id if found.record is not None else b""
            try:
                done = await remote.replace(port, key, record, known)
            finally:
                node.cut(key)  # the fence, whatever came of it
            if done:
                return answer
    except (RemoteDown, RemoteRefused) as error:
        raise RemoteUnavailable(f"{key!r}: {error}") from None


def _seen(node: Node, key: str, found: Found) -> tuple[Any, float]:
    record = found.record
    if record is None:
        return ABSENT, 0.0
    left = found.remaining - (record.hard_ms - record.fresh_ms) / 1000
    if record.soft_invalid or left <= 0:
        return ABSENT, 0.0
    opened = open_record(node, key, record, _POLICY)
    return (ABSENT, 0.0) if opened is None else (opened[0], left)
