"""How one key is cached: lifetimes, lease, limits; frozen and checked."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

from tiercache.errors import PolicyError

_FOLLOWS_TTL = ("stale_if_error", "negative_ttl")
_FOLLOWS = (*_FOLLOWS_TTL, "refresh_ahead", "hot_rate")
_SECONDS = "(0, 1e9]"
_RANGES = {
    "jitter": "[0, 1)",
    "lease": "[0.1, 60]",
    **dict.fromkeys(("beta", "stale_while_revalidate", "stale_if_error", "negative_ttl"), "[0, 1e9]"),
    **dict.fromkeys(("local_ttl", "max_load", "nested_wait", "half_life", "hot_rate"), _SECONDS),
    **dict.fromkeys(("error_backoff", "error_backoff_max"), _SECONDS),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The rules for a cached value; times in seconds, each field can be overridden per call.

    ttl: how long a value is fresh at most. jitter: a loaded value lives U((1 - jitter) ttl, ttl), so that values
    stored together do not expire together. beta: eagerness of early refreshes (XFetch), 0 switches them off.
    stale_while_revalidate: how long past its freshness a value is served at once and refreshed behind.
    stale_if_error: how long it is served when its loader fails; default min(ttl, 60). (Both as in RFC 5861.)
    negative_ttl: lifetime of a loader's None and of `negative_errors`, default min(ttl, 60); 0 stores neither.
    negative_errors: exception classes that are answers ("no such row"), cached and raised again everywhere.
    local_ttl: how long this process believes its copy before it looks at Redis again.
    lease: lifetime of the fleet-wide right to load, renewed while the loader runs. max_load: a load that takes
    longer is given up. timeout: how long a caller waits for somebody else's load (None: as long as it takes).
    soft_timeout: how long a caller who may have a stale value waits for a new one (None: as long as for any).
    nested_wait: the same inside a loader. on_abandon: what happens to a load whose callers all left.
    error_backoff, error_backoff_max: pause after a failed load, doubling with each failure.
    half_life: how soon `Cache.hot` forgets hits; that of the cache's own policy counts.
    refresh: who runs an early refresh. refresh_ahead: an entry that this process is asked for at least hot_rate
    times per second (default 1; giving it switches this on) is refreshed near its end without waiting for a request.
    copy: hand each caller its own copy of the value.

    Raises PolicyError, naming the field and its range.
    """

    ttl: float = 300.0
    jitter: float = 0.1
    beta: float = 1.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = None  # type: ignore[assignment]  # min(ttl, 60) from __post_init__ on
    negative_ttl: float = None  # type: ignore[assignment]  # min(ttl, 60) from __post_init__ on
    negative_errors: tuple[type[Exception], ...] = ()
    local_ttl: float = 30.0
    lease: float = 3.0
    max_load: float = 60.0
    timeout: float | None = None
    soft_timeout: float | None = None
    nested_wait: float = 1.0
    on_abandon: Literal["cancel", "finish"] = "cancel"
    error_backoff: float = 0.1
    error_backoff_max: float = 5.0
    half_life: float = 60.0
    refresh: Literal["background", "caller", "worker"] = "background"
    refresh_ahead: bool = None  # type: ignore[assignment]  # is hot_rate given? from __post_init__ on
    hot_rate: float = None  # type: ignore[assignment]  # 1 from __post_init__ on
    copy: bool = False
    following: tuple[str, ...] = dataclasses.field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.ttl is None:
            raise PolicyError("ttl=None: every entry expires; choose a long ttl instead, such as 86400")
        put = object.__setattr__
        put(self, "ttl", seconds("ttl", self.ttl))
        put(self, "following", tuple(name for name in _FOLLOWS if getattr(self, name) is None))
        for name in _FOLLOWS_TTL:
            if name in self.following:
                put(self, name, min(self.ttl, 60.0))
        if self.refresh_ahead is None:
            put(self, "refresh_ahead", self.hot_rate is not None)
        if self.hot_rate is None:
            put(self, "hot_rate", 1.0)
        for name, interval in _RANGES.items():
            put(self, name, seconds(name, getattr(self, name), interval))
        for name in ("timeout", "soft_timeout"):
            if getattr(self, name) is not None:
                put(self, name, seconds(name, getattr(self, name)))
        if self.max_load < self.lease:
            raise PolicyError(f"max_load={self.max_load!r}: must be at least lease ({self.lease!r})")
        one_of("on_abandon", self.on_abandon, ("cancel", "finish"))
        one_of("refresh", self.refresh, ("background", "caller", "worker"))
        for name in ("copy", "refresh_ahead"):
            if not isinstance(getattr(self, name), bool):
                raise PolicyError(f"{name}={getattr(self, name)!r}: must be True or False")
        put(self, "negative_errors", _error_classes(self.negative_errors))

    def override(self, changes: dict[str, Any]) -> "Policy":
        """This policy with some fields changed; the fields that follow ttl still follow it."""
        unknown = changes.keys() - FIELDS
        if unknown:
            raise TypeError(f"{min(unknown)!r} is not a field of Policy; the fields are {', '.join(sorted(FIELDS))}")
        own = {name: getattr(self, name) for name in FIELDS if name not in self.following}
        return Policy(**{**own, **changes})


FIELDS = frozenset(field.name for field in dataclasses.fields(Policy) if field.init)


def seconds(name: str, value: Any, interval: str = _SECONDS) -> float:
    """`value` as a float, if it is a number in `interval`; else PolicyError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PolicyError(f"{name}={value!r}: must be a number in {interval}, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        value = number = math.inf
    least, most, excluded = _ends(interval)
    if not least <= number <= most or number in excluded:
        raise PolicyError(f"{name}={value!r}: must be a number in {interval}")
    return number


@functools.cache
def _ends(interval: str) -> tuple[float, float, tuple[float, ...]]:
    least, most = map(float, interval[1:-1].split(","))
    excluded = [least] * (interval[0] == "(") + [most] * (interval[-1] == ")")
    return least, most, tuple(excluded)


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """PolicyError unless `value` is one of the choices."""
    if value not in choices:
        raise PolicyError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")


def _error_classes(value: Any) -> tuple[type[Exception], ...]:
    classes = value if isinstance(value, (tuple, list)) else (value,)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise PolicyError(f"negative_errors={value!r}: must be a tuple of subclasses of Exception")
    return tuple(classes)
