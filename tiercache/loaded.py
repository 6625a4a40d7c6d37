"""What a loader may say of the very value that it returns."""

from dataclasses import KW_ONLY, dataclass
from typing import Generic, TypeVar

from tiercache.errors import PolicyError
from tiercache.policy import Policy

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T_co]):
    """A loader's result with rules of its own: callers get `value`, and never see the rest.

    ttl: how long it is fresh at most, in seconds; jitter may shorten that, as for any loaded value. A None lives
    exactly so long. stale_if_error: how long past its freshness it may serve, whatever for. cache: with False it goes
    to this call and to everybody who waits for it, and nothing is kept; an older value that is cached stays.
    None: as the policy says. What the policy could not hold either is a failure of the load: a PolicyError that names
    the key and the field.
    """

    value: T_co
    _: KW_ONLY
    ttl: float | None = None
    stale_if_error: float | None = None
    cache: bool = True

    def rules(self, key: str, policy: Policy) -> Policy:
        """`policy` with this value's own lifetimes in it; raises PolicyError."""
        try:
            if isinstance(self.value, Loaded):
                raise PolicyError("value: must be the value itself, not another Loaded")
            if not isinstance(self.cache, bool):
                raise PolicyError(f"cache={self.cache!r}: must be True or False")
            if self.ttl is not None:
                policy = policy.override({"ttl": self.ttl, "negative_ttl": self.ttl})
            if self.stale_if_error is not None:
                policy = policy.override({"stale_if_error": self.stale_if_error})
                longest = min(policy.stale_while_revalidate, policy.stale_if_error)
                policy = policy.override({"stale_while_revalidate": longest})
        except PolicyError as error:
            raise PolicyError(f"the Loaded that the loader of {key!r} returned: {error}") from None
        return policy
