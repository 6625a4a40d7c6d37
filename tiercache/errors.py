"""The errors that tiercache raises; each message names the key or field and says what to do."""


class TierCacheError(Exception):
    """Base of every error that tiercache raises on its own account."""


class LoadTimeout(TierCacheError, TimeoutError):
    """Nobody's load ended in time: the caller's `timeout` or the policy's `max_load` passed."""


class LoadFailed(TierCacheError):
    """Another process's loader failed, and its cooldown has not ended.

    `type_name` is the class name of its exception, `message` its text (at most 200 characters),
    `retry_after` the seconds until somebody may run the loader again.
    """

    def __init__(self, key: str, type_name: str, message: str, retry_after: float) -> None:
        super().__init__(key, type_name, message, retry_after)
        self.key = key
        self.type_name = type_name
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return (
            f"the load of {self.key!r} failed in another process with {self.type_name}: {self.message} "
            f"(it may be tried again in {self.retry_after:.3g} s)"
        )


class RemoteUnavailable(TierCacheError):
    """Redis could not be reached, or refused: only this process's own tier was changed."""


class ReentrantLoadError(TierCacheError):
    """A loader asked, directly or through others, for the very key that it is loading."""


class CodecError(TierCacheError):
    """A value can't be encoded or decoded; names the path in the value and the way out."""


class PolicyError(TierCacheError, ValueError):
    """A policy or cache setting is outside its range; names the field and the range."""


class CacheClosed(TierCacheError, RuntimeError):
    """The cache was used after `close()`."""
