"""The refreshes that processes leave to workers: a stream with a consumer group, and the workers' sign of life.

A process sends a job by a script, where a worker is alive. A worker takes it, and it stays pending until it is done;
while it runs, its worker goes on claiming it, and one that nobody claims is taken by another worker. All workers are
one consumer, so that none leaves a name behind. The stream ends with its workers.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from tiercache.local.record import Record
from tiercache.port import Port, RemoteRefused
from tiercache.remote import answers
from tiercache.remote import commands as c
from tiercache.remote.calls import Calls
from tiercache.remote.resp import Refusal, pack_all

GROUP = CONSUMER = "workers"
BOUND = 10_000  # jobs that the stream holds, about
BEAT = 1.0  # seconds between two signs of life
ALIVE = 3 * BEAT  # seconds for which one is believed, and a job is left to the worker that took it
KEPT = 60_000  # ms for which the stream outlives its workers
BLOCK = 1.0  # seconds that a worker waits for a job before it looks round
RIGHTS = "+xgroup|create +xreadgroup +xautoclaim +xclaim +xrange +xack +xdel +time"


class Job(NamedTuple):
    """A job as it was taken; `age` in seconds. `key` and `data` are None where it is malformed."""

    id: bytes
    key: bytes | None
    data: bytes | None
    age: float


class Jobs:
    """The jobs of one namespace. Every method but `take` raises RemoteDown or RemoteRefused."""

    def __init__(self, names: c.Names, calls: Calls) -> None:
        self._names, self._calls = names, calls

    async def send(self, io: Port, record: Record, key: str, patience: float) -> float:
        """Leave a refresh to the workers. Seconds that they have for it, 0 if none is alive."""
        names = self._names
        keys = [names.workers, names.mark(key), names.jobs]
        args = (record.id, max(1, round(patience * 1000)), BOUND, key, record.pack())
        [reply] = await self._calls.call(io, [c.evalsha(c.DELEGATE, keys, *args)])
        return self._calls.parsed(answers.delegated, reply)

    # For workers.

    async def open(self, io: Port) -> None:
        """Make the stream and its group; RemoteRefused if a worker may not do what it must."""
        stream, never = self._names.jobs, 10**12
        commands: list[c.Command] = [
            ("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM"),
            ("PEXPIRE", stream, KEPT),
            ("XREADGROUP", "GROUP", GROUP, CONSUMER, "COUNT", 1, "STREAMS", stream, "0"),
            ("XAUTOCLAIM", stream, GROUP, CONSUMER, never, "0-0", "COUNT", 1, "JUSTID"),
            ("XCLAIM", stream, GROUP, CONSUMER, never, "0-1", "JUSTID"),
            ("XRANGE", stream, "0-1", "0-1"),
            ("XACK", stream, GROUP, "0-1"),
            ("XDEL", stream, "0-1"),
            ("TIME",),
        ]
        for reply in await self._calls.call(io, commands):
            if isinstance(reply, Refusal) and reply.code != "BUSYGROUP":
                raise self._calls.refusal(reply)

    async def take(self, link: Any, patience: float) -> Job | None:
        """The next job, None if none came in time; raises Unanswered or RemoteRefused."""
        stream = self._names.jobs
        wait = ("BLOCK", round(BLOCK * 1000), "STREAMS", stream, ">")
        commands: list[c.Command] = [("XREADGROUP", "GROUP", GROUP, CONSUMER, "COUNT", 1, *wait), ("TIME",)]
        found, time = await link.exchange(pack_all(commands), 2, BLOCK + patience)
        if found is None:
            return None
        entries = self._calls.parsed(answers.streamed, found)
        return self._job(entries, time)

    def _job(self, entries: list[Any], time: Any) -> Job | None:
        seconds = self._calls.parsed(answers.time, time)
        for id, key, data, at in map(self._parsed, entries):
            return Job(id, key, data, max(0.0, seconds - at))
        return None

    def _parsed(self, entry: Any) -> tuple[bytes, bytes | None, bytes | None, float]:
        return self._calls.parsed(answers.job, entry)

    async def beat(self, io: Port, held: Iterable[bytes], alive: bool) -> None:
        """Give a sign of life, if one is to be given, and go on claiming the jobs that are held."""
        stream = self._names.jobs
        commands: list[c.Command] = [("PEXPIRE", stream, KEPT)]
        if alive:
            commands.append(("SET", self._names.workers, "1", "PX", round(ALIVE * 1000)))
        if held:
            commands.append(("XCLAIM", stream, GROUP, CONSUMER, 0, *held, "JUSTID"))
        replies = await self._calls.call(io, commands)
        for reply in replies:
            if isinstance(reply, Refusal):
                raise self._calls.refusal(reply)
        if not replies[0]:
            raise RemoteRefused("NOGROUP", "the stream is gone")

    async def orphans(self, io: Port, most: int, start: bytes) -> tuple[bytes, list[bytes]]:
        """Claim jobs whose worker is silent, from `start` on: where to go on, and their ids."""
        idle = round(ALIVE * 1000)
        claim: c.Command = ("XAUTOCLAIM", self._names.jobs, GROUP, CONSUMER, idle, start, "COUNT", most, "JUSTID")
        [reply] = await self._calls.call(io, [claim], retry=False)
        return self._calls.parsed(answers.claimed, reply)

    async def look_up(self, io: Port, id: bytes) -> Job | None:
        """A job by its id; None if it is no longer in the stream."""
        entries, time = await self._calls.call(io, [("XRANGE", self._names.jobs, id, id), ("TIME",)])
        return self._job(self._calls.parsed(answers.entries, entries), time)

    async def done(self, io: Port, id: bytes) -> None:
        """A job needs to be done no more."""
        stream = self._names.jobs
        for reply in await self._calls.call(io, [("XACK", stream, GROUP, id), ("XDEL", stream, id)]):
            if isinstance(reply, Refusal):
                raise self._calls.refusal(reply)

    async def hand_back(self, io: Port, ids: list[bytes]) -> None:
        """Let another worker claim these jobs at once."""
        claim: c.Command = ("XCLAIM", self._names.jobs, GROUP, CONSUMER, 0, *ids, "IDLE", 10**9, "JUSTID")
        await self._calls.call(io, [claim])
