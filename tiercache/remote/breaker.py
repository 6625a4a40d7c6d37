"""Stops asking a Redis that does not answer."""

import threading
from collections.abc import Callable

TRIPS = 3  # unanswered calls in a row
LONGEST = 5.0


class Breaker:
    """Open after three unanswered calls in a row; then one probe after U(0.5, 1) s, doubling up to 5 s.

    Error replies are answers: they never count. `draw` is uniform in (0, 1]. A call takes a ticket from `admits` and
    shows it if it stays unanswered: of the calls that were under way when the breaker opened none counts any more.
    `changed` is told, outside the lock, whether it is open from now on.
    """

    def __init__(
        self, now: Callable[[], float], draw: Callable[[], float], changed: Callable[[bool], object] = bool
    ) -> None:
        self._changed = changed
        self._now = now
        self._draw = draw
        self.lock = threading.Lock()
        # Written under `lock`.
        self.failures = 0
        self._pause = 0.0
        self._retry_at = 0.0
        self.ticket = 1  # a new one for each change of state and each probe; good while there are no failures

    @property
    def open(self) -> bool:
        """True while calls are refused, but for a probe now and then."""
        return self.failures >= TRIPS

    @property
    def rests(self) -> bool:
        """True while no call is admitted, not even as a probe."""
        return self.open and self._now() < self._retry_at

    def remaining(self) -> float:
        """Seconds until the next probe; 0 while closed."""
        return max(0.001, self._retry_at - self._now()) if self.open else 0.0

    def admits(self) -> int:
        """May a call be made? 0: no; else its ticket. While open, only one becomes the probe."""
        if self.failures < TRIPS:
            return self.ticket
        with self.lock:
            now = self._now()
            if self.open and now < self._retry_at:
                return 0
            if self.open:
                self._retry_at = now + self._pause  # others wait for what this probe finds
                self.ticket += 1
            return self.ticket

    def answered(self) -> bool:
        """A call was answered. True if this closed the breaker."""
        if not self.failures:
            return False
        with self.lock:
            was_open = self.open
            self.failures = 0
            self._pause = 0.0
            self.ticket += was_open
        if was_open:
            self._changed(False)
        return was_open

    def unanswered(self, ticket: int) -> bool:
        """A call was not answered. True if this opened the breaker."""
        with self.lock:
            if ticket != self.ticket:
                return False
            self.failures += 1
            if not self.open:
                return False
            self._pause = min(LONGEST, self._pause * 2) if self._pause else 0.5 + 0.5 * self._draw()
            self._retry_at = self._now() + self._pause
            self.ticket += 1
            opened = self.failures == TRIPS
        if opened:
            self._changed(True)
        return opened
