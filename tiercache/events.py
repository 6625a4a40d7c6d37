"""What a cache tells of what it does, and to whom.

`key` is the key as it was given to this process; a key that is known only by its digest in Redis stands so.
No event holds a value or an error's text.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

log = logging.getLogger("tiercache")


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened; `key` is empty where it concerns no single key."""

    key: str = ""


@dataclass(frozen=True, slots=True)
class Hit(Event):
    """A call was answered by this process's tier 1 ("local") or by a record in Redis ("remote")."""

    tier: Literal["local", "remote"] = "local"


@dataclass(frozen=True, slots=True)
class Miss(Event):
    """Neither tier had anything to serve."""


@dataclass(frozen=True, slots=True)
class Load(Event):
    """A loader ended after so many seconds; `error` is the class name of what it raised, if it did.

    outcome: "value", "negative" (an error that the policy calls an answer) or "failed".
    """

    seconds: float = 0.0
    outcome: Literal["value", "negative", "failed"] = "value"
    error: str = ""


@dataclass(frozen=True, slots=True)
class EarlyRefresh(Event):
    """A refresh began while the present value was served."""


@dataclass(frozen=True, slots=True)
class StaleServed(Event):
    """A caller got a value past its freshness, or one that was invalidated with keep_stale.

    why: "revalidating", "failed" (`error` is the class name of the failure), "timeout" or "soft_timeout".
    """

    why: Literal["revalidating", "failed", "timeout", "soft_timeout"] = "revalidating"
    error: str = ""


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """A renewal found the lease gone while the loader ran."""


@dataclass(frozen=True, slots=True)
class CommitRejected(Event):
    """A loaded value came too late to be stored."""


@dataclass(frozen=True, slots=True)
class Invalidated(Event):
    """This process dropped its copy: by a call of its own, or because it heard a message (its own comes back, too)."""

    heard: bool = False


@dataclass(frozen=True, slots=True)
class BreakerOpened(Event):
    """Redis does not answer and is not asked any more, but for a probe now and then."""


@dataclass(frozen=True, slots=True)
class BreakerClosed(Event):
    """Redis answers again."""


@dataclass(frozen=True, slots=True)
class Epoch(Event):
    """The inbox was subscribed; each time after the first, messages may have been lost."""


Callback: TypeAlias = Callable[[Event], object]


class Listeners(dict[object, Callback]):
    """Who is told; in the thread where it happens, outside every lock. Changed under `lock`."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self._failed: set[object] = set()
        self._here = threading.local()

    def tell(self, event: Event) -> None:
        """Call everybody; what a callback does with the cache itself is not told."""
        if getattr(self._here, "telling", False):
            return
        self._here.telling = True
        try:
            for token, callback in list(self.items()):
                try:
                    callback(event)
                except KeyboardInterrupt:  # it is not the callback's own
                    raise
                except BaseException:
                    if token not in self._failed:
                        self._failed.add(token)
                        log.exception("A callback of on_event failed; further failures of it are not logged")
        finally:
            self._here.telling = False
