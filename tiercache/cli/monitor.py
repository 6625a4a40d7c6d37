"""The Redis commands of a herd, as MONITOR shows them to a connection of its own."""

import re
import threading
from types import TracebackType
from typing import Self

import redis

from tiercache.cli.server import connect

_SET_UP = {"HELLO", "AUTH", "CLIENT", "SELECT", "INFO", "PING", "ECHO", "MONITOR"}
_SET_UP |= {"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"}
_LINE = re.compile(r'\S+ \[\d+ (?P<client>[^\]]*)\] "(?P<command>[^"]*)"')
_PATIENCE = 20.0


class CommandCount:
    """Counts what clients send between `begin` and `end`, which are marks in the stream of commands.

    Left out: what scripts call, connection set-up, SUBSCRIBE and PING. With `only_marked`, on a Redis
    that others use too, only commands that name `mark` count. `end` returns None where the server
    does not let us look (`why` says so).
    """

    def __init__(self, url: str, mark: str, only_marked: bool) -> None:
        self.why = ""
        self._mark = mark
        self._only_marked = only_marked
        self._lines: list[str] = []  # looked at when the herd is over: it needs the processor
        self._watching = threading.Event()
        self._begun = threading.Event()
        self._ended = threading.Event()
        self._marker = connect(url)
        self._stream = connect(url, socket_timeout=None)
        self._thread = threading.Thread(target=self._watch, name="tiercache-demo-monitor", daemon=True)

    def begin(self) -> None:
        """Count from here on; everything sent before this call is left out."""
        self._thread.start()
        self._watching.wait(_PATIENCE)
        self._say("begin", self._begun)

    def end(self) -> int | None:
        """The commands since `begin`, once MONITOR has shown all that were sent before this call."""
        self._say("end", self._ended)
        return None if self.why else sum(map(self._is_of_the_herd, self._lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._say("end", self._ended)
        self._marker.close()
        self._stream.close()

    def _say(self, word: str, seen: threading.Event) -> None:
        if self.why or seen.is_set():
            return
        try:
            self._marker.echo(f"{self._mark}:{word}")
        except redis.RedisError as error:
            self.why = f"the marks can't be sent: {error}"
        if not self.why and not seen.wait(_PATIENCE):
            self.why = self.why or "MONITOR did not keep up"

    def _watch(self) -> None:
        try:
            with self._stream.monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py's
                self._watching.set()
                while not self._ended.is_set():
                    self._note(monitor.connection.read_response())
        except Exception as error:  # whatever it is, the herd goes on without the count
            self.why = f"MONITOR can't be used: {error}"
            for event in (self._watching, self._begun, self._ended):
                event.set()

    def _note(self, shown: bytes | str) -> None:
        line = shown.decode(errors="replace") if isinstance(shown, bytes) else shown
        if self._begun.is_set():
            self._lines.append(line)
        if line.endswith(f'"{self._mark}:begin"'):
            self._begun.set()
        elif line.endswith(f'"{self._mark}:end"'):
            self._ended.set()

    def _is_of_the_herd(self, line: str) -> bool:
        shown = _LINE.match(line)
        if shown is None or shown["client"] == "lua" or shown["command"].upper() in _SET_UP:
            return False
        return not self._only_marked or self._mark in line
