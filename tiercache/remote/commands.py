"""Names, scripts and commands of tier 2; no I/O, no colour."""

import hashlib
import re
from importlib.resources import files
from typing import NamedTuple, TypeAlias

Command: TypeAlias = tuple[bytes | str | int, ...]

UNKEPT = 2**20  # bytes of a record that is not to be stored: up to here the message alone brings it to who waits
INLINE = 4096  # larger records stay out of Lua: they are staged by SET and renamed by the script
_LONGEST = 200


class Script(NamedTuple):
    text: str
    sha: str


def _script(*names: str) -> Script:
    text = "".join((files(__package__) / "scripts" / f"{name}.lua").read_text(encoding="utf-8") for name in names)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ACQUIRE, COMMIT, RENEW, RELEASE, INVALIDATE, WRITE, DELEGATE = map(
    _script, ("acquire", "commit", "renew", "release", "invalidate", "write", "delegate")
)
WRITE_IF, INVALIDATE_IF = _script("only_if", "write"), _script("only_if", "invalidate")
HOT, HOTTEST = _script("hot"), _script("hottest")
SCRIPTS = {
    script.sha: script
    for script in (ACQUIRE, COMMIT, RENEW, RELEASE, INVALIDATE, WRITE, WRITE_IF, INVALIDATE_IF, DELEGATE, HOT, HOTTEST)
}


def evalsha(script: Script, keys: list[str], *args: bytes | str | int) -> Command:
    """A call of a script by its digest."""
    return ("EVALSHA", script.sha, len(keys), *keys, *args)


def evaluate(command: Command) -> Command:
    """The same call with the script's text, which makes the server know it."""
    return ("EVAL", SCRIPTS[str(command[1])].text, *command[2:])


def wire_key(key: str) -> str:
    """The key as it stands in Redis: itself, or `#` and a 128-bit digest where it is long or begins with `#`."""
    if len(key) * 4 <= _LONGEST and key[0] != "#":
        return key
    data = key.encode()
    if len(data) <= _LONGEST and key[0] != "#":
        return key
    return "#" + hashlib.blake2b(data, digest_size=16).hexdigest()


class Names:
    """The names of one namespace; one hash tag per key keeps its records on one cluster slot."""

    def __init__(self, namespace: str) -> None:
        if not isinstance(namespace, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", namespace):
            raise ValueError(f"namespace={namespace!r}: must be 1 to 64 of A-Z a-z 0-9 _ . -")
        self.invalidations = f"tc1:iv:{namespace}"
        self._start = f"tc1:{{{namespace}:"
        self.popularity = [f"{self._start}}}:hot", f"{self._start}}}:tally"]  # no key is empty: they are nobody's
        self.jobs, self.workers = f"{self._start}}}:jobs", f"{self._start}}}:workers"  # these, too

    def value(self, key: str) -> str:
        return f"{self._start}{key}}}:v"

    def lease(self, key: str) -> str:
        return f"{self._start}{key}}}:l"

    def failure(self, key: str) -> str:
        return f"{self._start}{key}}}:f"

    def staging(self, key: str, token: bytes) -> str:
        return f"{self._start}{key}}}:s:{token.hex()}"

    def mark(self, key: str) -> str:
        return f"{self._start}{key}}}:j"

    @staticmethod
    def inbox(process: bytes) -> str:
        return f"tc1:in:{process.hex()}"
