"""Signals as a fact to look at: what is being started or cleaned up is never torn apart by one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The user wants it to end."""


class Interrupts:
    """Within it, Ctrl-C, SIGTERM and SIGHUP set `fired`; `check` raises once one did."""

    def __init__(self) -> None:
        self.fired = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, action in self._before.items():
            signal.signal(number, action)

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.fired:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.fired = True
