"""Who holds the lease of each key, told by the answers alone: S1, S6 and S11."""

from collections.abc import Callable
from typing import Any

from tiercache.testing import MemoryRedis

ENDS = ("INVALIDATE", "WRITE", "INVALIDATE_IF", "WRITE_IF")  # whoever holds the lease


class Server(MemoryRedis):
    """Counts what it tells."""

    told = 0

    def publish(self, channel: bytes, payload: bytes) -> None:
        self.told += 1
        super().publish(channel, payload)


class Leases:
    """Watches each script: `before` it runs, and `after`. Whatever is done behind their back is said to `lost`."""

    def __init__(self, redis: Server, violated: Callable[[str], None]) -> None:
        self._redis, self._violated = redis, violated
        self._held: dict[bytes, tuple[bytes, int]] = {}  # name of a lease -> its token, and when it ends

    def lost(self, *names: bytes) -> None:
        for name in names:
            self._held.pop(name, None)

    def _holder(self, name: bytes) -> bytes | None:
        token, ends = self._held.get(name, (None, 0))
        return token if ends >= self._redis.db.now() else None

    def _state(self, names: list[bytes]) -> list[Any]:
        db = self._redis.db
        kinds = [(name, db.type(name)) for name in names]
        return [(dict(db.hash(name)) if kind == "hash" else db.get(name), db.pttl(name)) for name, kind in kinds]

    def before(self, script: str, keys: list[bytes], argv: list[bytes]) -> list[Any] | None:
        """What a RENEW or a RELEASE of somebody who does not hold the lease must leave as it is."""
        if script not in ("RENEW", "RELEASE") or self._holder(keys[0]) == argv[0]:
            return None
        return [self._redis.told, *self._state(keys[:2])]  # without its own staging place, which a release empties

    def after(self, script: str, words: list[bytes], keys: list[bytes], before: list[Any] | None, reply: Any) -> None:
        name = keys[0] if script in ("RENEW", "RELEASE") else keys[1]
        argv = words[3 + len(keys) :]
        token, held, now = argv[0], self._holder(name), self._redis.db.now()
        if before is not None and before != [self._redis.told, *self._state(keys[:2])]:
            self._violated(f"S6: the {script} of {token.hex()} changed the lease of {held and held.hex()}")
        match script, reply[0]:
            case "ACQUIRE", b"GRANTED" if held != token:
                if held is not None:
                    self._violated(f"S1: {token.hex()} is granted the lease that {held.hex()} holds")
                self._held[name] = token, now + int(argv[3])
            case "ACQUIRE", b"BUSY" if held is None or held[:8] != reply[2] or reply[1] != self._held[name][1] - now:
                self._violated(f"S1: BUSY names {reply[2].hex()}, but {held and held.hex()} holds the lease")
            case "RENEW", b"OK" if held == token:
                self._held[name] = token, now + int(argv[1])
            case "RENEW", b"OK":
                self._violated(f"S6: {token.hex()} renews the lease of {held and held.hex()}")
            case (("COMMIT" | "RELEASE"), _) if held == token:
                self.lost(name)
            case _, b"OK" if script in ENDS:
                self.lost(name)
        stands = self._redis.db.hash(name).get(b"t") if self._redis.db.type(name) == "hash" else None
        if stands != self._holder(name):
            self._violated(f"S1: {stands} stands in {name!r} after {script}, but {self._holder(name)} holds that lease")
        if script not in ENDS:
            self._again(script, words, keys, argv, reply)

    def _again(self, script: str, words: list[bytes], keys: list[bytes], argv: list[bytes], reply: Any) -> None:
        """S11: the same once more, as after a lost reply: nothing changes, nobody is told, the answer says the same."""
        told, state = self._redis.told, self._state(keys)
        again = self._redis.execute(*words)
        if (told, state) != (self._redis.told, self._state(keys)):
            self._violated(f"S11: a repeated {script} changes what the first one left")
        first, second = ([_meant(script, each, argv)] for each in (reply, again))
        if first != second:
            self._violated(f"S11: a repeated {script} is answered {again}, the first one {reply}")


def _meant(script: str, reply: Any, argv: list[bytes]) -> Any:
    """What an answer says to its client."""
    if script == "RELEASE":
        return reply[1]  # the pause
    if script == "COMMIT":
        return reply[0] == b"OK" and int(argv[3]) > 0  # what is told only, and not stored, is not found again
    return reply
