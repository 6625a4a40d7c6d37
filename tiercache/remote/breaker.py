"""Stops asking a Redis that does not answer."""

from collections.abc import Callable

TRIPS = 3  # unanswered calls in a row
LONGEST = 5.0


class Breaker:
    """Open after three unanswered calls in a row; then one probe after U(0.5, 1) s, doubling up to 5 s.

    Error replies are answers: they never count. `draw` is uniform in (0, 1].
    """

    def __init__(self, now: Callable[[], float], draw: Callable[[], float]) -> None:
        self._now = now
        self._draw = draw
        self._failures = 0
        self._pause = 0.0
        self._retry_at = 0.0

    @property
    def open(self) -> bool:
        """True while calls are refused, but for a probe now and then."""
        return self._failures >= TRIPS

    def remaining(self) -> float:
        """Seconds until the next probe; 0 while closed."""
        return max(0.001, self._retry_at - self._now()) if self.open else 0.0

    def admits(self) -> bool:
        """May a call be made? While open, only the one that becomes the probe."""
        if not self.open:
            return True
        now = self._now()
        if now < self._retry_at:
            return False
        self._retry_at = now + self._pause  # others wait for what this probe finds
        return True

    def answered(self) -> bool:
        """A call was answered. True if this closed the breaker."""
        was_open = self.open
        self._failures = 0
        self._pause = 0.0
        return was_open

    def unanswered(self) -> bool:
        """A call was not answered. True if this opened the breaker."""
        self._failures += 1
        if not self.open:
            return False
        self._pause = min(LONGEST, self._pause * 2) if self._pause else 0.5 + 0.5 * self._draw()
        self._retry_at = self._now() + self._pause
        return self._failures == TRIPS
