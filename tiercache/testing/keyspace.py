"""Strings, hashes, sorted sets and their lifetimes: as much of Redis's keyspace as the scripts use."""

from collections.abc import Callable
from typing import TypeAlias

from tiercache.remote.resp import Refusal

Hash: TypeAlias = dict[bytes, bytes]


class Scores(dict[bytes, float]):
    """A sorted set: its members and their scores."""

    def ranked(self) -> list[bytes]:
        """The members, lowest score first."""
        return sorted(self, key=lambda member: (self[member], member))


WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Keyspace:
    """`clock` gives seconds. With `full` set, whatever adds memory is refused, as by maxmemory's noeviction."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[bytes, bytes | Hash | Scores] = {}
        self._ends: dict[bytes, int] = {}  # in milliseconds; a name that is not in here has no lifetime
        self.full = False

    def now(self) -> int:
        """Milliseconds."""
        return round(self._clock() * 1000)

    def names(self) -> list[bytes]:
        """Every name that holds something."""
        return [name for name in list(self._values) if self._value(name) is not None]

    def _value(self, name: bytes) -> bytes | Hash | Scores | None:
        ends = self._ends.get(name)
        if ends is not None and ends < self.now():
            self._remove(name)
        return self._values.get(name)

    def _remove(self, name: bytes) -> None:
        self._ends.pop(name, None)
        self._values.pop(name, None)

    # Of any type.

    def delete(self, *names: bytes) -> int:
        found = {name for name in names if self._value(name) is not None}
        for name in found:
            self._remove(name)
        return len(found)

    def pttl(self, name: bytes) -> int:
        if self._value(name) is None:
            return -2
        ends = self._ends.get(name)
        return -1 if ends is None else ends - self.now()

    def pexpire(self, name: bytes, ms: int) -> None:
        if ms <= 0:
            self.delete(name)
        elif self._value(name) is not None:
            self._ends[name] = self.now() + ms

    def type(self, name: bytes) -> str:
        value = self._value(name)
        kinds = {type(None): "none", bytes: "string", dict: "hash", Scores: "zset"}
        return kinds[type(value)]

    def rename(self, name: bytes, new: bytes) -> None:
        value = self._value(name)
        if value is None:
            raise Refusal("ERR no such key")
        ends = self._ends.get(name)
        self.delete(name, new)
        self._values[new] = value
        if ends is not None:
            self._ends[new] = ends

    # Strings.

    def get(self, name: bytes) -> bytes | None:
        value = self._value(name)
        if isinstance(value, dict):
            raise Refusal(WRONGTYPE)
        return value

    def set(self, name: bytes, value: bytes, ms: int | None = None) -> None:
        if self.full:
            raise Refusal("OOM command not allowed when used memory > 'maxmemory'.")
        if ms is not None and ms <= 0:
            raise Refusal("ERR invalid expire time in 'set' command")
        self.delete(name)
        self._values[name] = value
        if ms is not None:
            self._ends[name] = self.now() + ms

    def patch(self, name: bytes, value: bytes) -> None:
        """Replace a string, keeping its lifetime."""
        self._values[name] = value

    # Hashes.

    def hash(self, name: bytes) -> Hash:
        """A hash to read; empty where there is none."""
        value = self._value(name)
        if isinstance(value, (bytes, Scores)):
            raise Refusal(WRONGTYPE)
        return value if value is not None else {}

    def hset(self, name: bytes, fields: Hash) -> None:
        self.hash(name)
        held = self._values.setdefault(name, {})
        assert not isinstance(held, (bytes, Scores))
        held.update(fields)

    # Sorted sets.

    def scores(self, name: bytes) -> Scores:
        """A sorted set to read; empty where there is none."""
        value = self._value(name)
        if isinstance(value, (bytes, dict)) and not isinstance(value, Scores):
            raise Refusal(WRONGTYPE)
        return value if value is not None else Scores()

    def zincrby(self, name: bytes, by: float, member: bytes) -> None:
        scores = self.scores(name)
        scores[member] = scores.get(member, 0.0) + by
        self._values[name] = scores

    def weigh(self, name: bytes, weight: float) -> None:
        """As ZUNIONSTORE of a sorted set to itself, which takes its lifetime away."""
        scores = Scores({member: score * weight for member, score in self.scores(name).items()})
        self.delete(name)
        if scores:
            self._values[name] = scores

    def trim(self, name: bytes, most: int) -> None:
        """Only the members with the highest scores stay."""
        scores = self.scores(name)
        for member in scores.ranked()[: max(0, len(scores) - most)]:
            del scores[member]
        if not scores:
            self.delete(name)
