"""What the fleet is asked for most: each process tells its hits every few seconds, and anybody may ask.

Theory. A report holds what each key gained since it was last told, every hit decayed since it came; the script goes on
decaying the sum. So a score is the decayed number of the fleet's hits, but for what is not told yet: hits since each
process's last report, which lies between 0 and PERIOD back, and what was less than the least that it told. The mean
of the first is known, (1 - 2**-p) / (p ln 2) with p = PERIOD / half-life, and rates are corrected for it.
"""

import logging
import math
from typing import Any

from tiercache.port import Node, Port, RemoteDown, RemoteRefused

log = logging.getLogger("tiercache")

PERIOD = 5.0  # seconds between two reports
REFUSED = 300.0  # seconds before the next one where Redis refuses it
MOST = 100  # keys of a report
KEPT = 1000  # keys that the fleet's script keeps
_COLD = 1e-6  # decayed hits: less is nothing
_LONGEST = 200  # bytes of a key in Redis


class Reports:
    """Tells the fleet, from the timer's thread, what this process's tier 1 was asked for."""

    def __init__(self, node: Node, redis: Any, half_life: float) -> None:
        self._node, self._redis, self._half_life = node, redis, half_life
        self._began = 0.0
        self._refused = False

    def start(self) -> None:
        """Count from now on, and report until the cache is closed; not where hits are not counted."""
        node = self._node
        if node.table.counts_hits:
            self._began = node.now()
            node.table.gains(0, self._began, self._half_life)
            node.timer.appoint(self._began + PERIOD * (1 + node.draw()), self.report)  # each at its own time

    async def report(self, io: Port) -> None:
        """Report, and appoint the next time. While Redis is not asked, what was gained waits."""
        pause = PERIOD if self._redis.breaker.rests else await self._report(io)
        self._node.timer.appoint(self._node.now() + pause, self.report)

    async def _report(self, io: Port) -> float:
        node = self._node
        now = node.now()
        hits, gains = node.table.gains(MOST, now, self._half_life)
        if not hits:
            return PERIOD
        try:
            await self._redis.report(io, self._half_life, now - self._began, hits, gains)
            self._refused = False
        except RemoteDown:  # it may have been added: it is rather lost than told twice
            node.count("unreported")
        except RemoteRefused as error:
            node.count("unreported")
            if not self._refused:
                log.warning("Redis refuses to be told which keys are popular (said once): %s", error)
            self._refused = True
            return REFUSED
        return PERIOD

    def disown(self) -> None:
        """In a forked child: what was hit before is the parent's to tell."""
        self._node.table.disown(self._node.now(), self._half_life)


def hottest(reply: Any) -> list[tuple[str, float, float]]:
    """(key, hits per second, share of all hits) out of the answer of hottest.lua; what is malformed is left out."""
    match reply:
        case [[bytes(seconds), bytes(micros)], [_, _, _, _] as tally, [*pairs]]:
            pass
        case _:
            raise ValueError(reply)
    now = _number(seconds) + _number(micros) / 1e6
    at, began, half, all_ = map(_number, tally)
    if not (0 < half <= 1e9 and 0 < all_ < 1e300 and math.isfinite(now - at) and math.isfinite(now - began)):
        return []
    faded = 2.0 ** -max(0.0, (now - at) / half)
    reached = 1.0 - 2.0 ** -max(1e-6, (now - began) / half)
    told = (1.0 - 2.0 ** (-PERIOD / half)) * half / (PERIOD * math.log(2))
    rate = faded * math.log(2) / half / reached / told
    found = []
    for member, data in zip(pairs[::2], pairs[1::2], strict=False):
        key, score = _key(member), _number(data)
        if key and _COLD < score * faded < 1e300:
            found.append((key, score * rate, min(1.0, score / all_)))
    return found


def _number(data: Any) -> float:
    try:
        return float(data) if type(data) is bytes and len(data) <= 64 else math.nan
    except ValueError:
        return math.nan


def _key(member: Any) -> str:
    try:
        return member.decode() if type(member) is bytes and len(member) <= _LONGEST else ""
    except UnicodeDecodeError:
        return ""
