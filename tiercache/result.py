"""A value, and how it was come by."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)

Source: TypeAlias = Literal["local", "remote", "loaded", "waited"]


@dataclass(frozen=True, slots=True)
class Result(Generic[T_co]):
    """What `Cache.lookup` gives.

    source: "local", this process's tier 1; "remote", Redis; "loaded", by the loader of this very call; "waited", by a
    load of somebody else, in this process or another. age: seconds since the value was stored; None where this process
    had it before its first `lookup`. stale: it is past its freshness, or was invalidated with `keep_stale`.
    error: the failure because of which a stale value was served, None if it was served for another reason.
    """

    value: T_co
    source: Source
    age: float | None
    stale: bool
    error: BaseException | None
