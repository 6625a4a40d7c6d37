"""The cache that users make: sync methods, their a-twins, and the decorator.

This file is longer than others because every method stands in two colours, with its contract.
"""

import copy
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Self, TypeVar, overload

from tiercache import flow
from tiercache.blocking import run
from tiercache.codec import Codec, MsgpackCodec
from tiercache.decorator import Decorators
from tiercache.delegation import Called
from tiercache.errors import RemoteUnavailable
from tiercache.events import Event
from tiercache.hot import Hot
from tiercache.keys import check_key
from tiercache.loaded import Loaded
from tiercache.local.face import Face, monotonic
from tiercache.local.following import Following, outcome_in_thread, outcome_of, value_of
from tiercache.local.outcome import AGAIN, Outcome
from tiercache.local.packing import is_plain
from tiercache.local.table import Mode, Table
from tiercache.policy import Policy
from tiercache.port import Port, RemoteDown, RemoteRefused, is_async
from tiercache.process import Process
from tiercache.remote.address import Address
from tiercache.remote.commands import Names, wire_key
from tiercache.result import Result
from tiercache.settings import check_ahead, check_settings, weigher
from tiercache.signing import Signer, check_keys
from tiercache.values import Values
from tiercache.wire import RedisWire, Wire

T = TypeVar("T")

FORCE = int(Mode.FORCE)
_OVERHEAD = 65_536  # bytes that a reply may have beyond its value
COUNTERS = (
    "hits_local", "hits_remote", "misses", "loads", "load_failures", "early_refreshes", "stale_served", "joins",
    "waits", "grants", "busy", "cooldowns", "commits", "commit_rejected", "leases_lost", "bypass_nested",
    "bypass_loop", "bypass_breaker", "bypass_unanswered", "bypass_refused", "epochs", "evictions", "breaker_opened",
    "undecodable", "unread", "unverified_served", "refreshes_ahead", "refreshes_skipped", "soft_timeouts_skipped",
    "loads_overdue", "loads_abandoned", "dead_wakers", "unreported", "jobs_sent", "jobs_unsent", "jobs_untaken",
    "jobs_done", "jobs_failed", "jobs_dropped", "jobs_refused", "entries", "bytes",
)  # fmt: skip


class Cache(Face, Decorators):
    """A two-tier cache: a compiled LRU in this process, then Redis; one load per key in the whole fleet.

    `url`: redis://, rediss:// or unix://; without it (and without `client`) there is tier 1 alone. `client`: a
    redis.Redis or redis.asyncio.Redis whose connection settings are taken; it is never used itself.
    `namespace`: 1 to 64 of A-Z a-z 0-9 _ . -; caches of one namespace share their keys. `policy`: the defaults.
    `max_entries`, `max_bytes`: bounds of tier 1; `weigh(value)` gives the bytes of a value (default: its encoded
    size, else an estimate). `store`: a cachetools.Cache in place of the LRU. `codec`: default msgpack.
    `max_value_bytes`: largest value, encoded; decoded it can take up to about 100 times as much. `push_bytes`:
    records up to this size travel inside the wake-up.
    `compress`: None, "zlib" or "zstd", for payloads above `compress_above` bytes. `connect_timeout`,
    `call_timeout`, `call_budget`: seconds for connecting, for one call, and for all Redis calls of one load.
    `refresh_concurrency`: background refreshes of sync callers at once. `around_load`: makes a context manager
    that is entered around every load outside its caller's frame. `sign_with`: a secret key, or several, of at
    least 16 bytes each: records in Redis are signed with the first and believed only if signed with one of them.

    The constructor does no I/O and starts no thread. Raises PolicyError, ValueError or TypeError for bad settings.
    """

    __slots__ = (
        "_finalizer", "_functions", "_policies", "_process", "_shared", "_templates", "codec", "namespace", "policy",
    )  # fmt: skip

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "default",
        policy: Policy | None = None,
        max_entries: int = 10_000,
        max_bytes: int | None = None,
        weigh: Callable[[Any], int] | None = None,
        store: Any = None,
        client: Any = None,
        codec: Codec | None = None,
        max_value_bytes: int = 32 * 2**20,
        push_bytes: int = 4096,
        compress: str | None = None,
        compress_above: int = 8192,
        connect_timeout: float = 0.25,
        call_timeout: float = 0.1,
        call_budget: float = 0.5,
        refresh_concurrency: int = 8,
        around_load: Callable[[], AbstractContextManager[Any]] | None = None,
        sign_with: bytes | Sequence[bytes] | None = None,
    ) -> None:
        check_settings(
            policy=policy, max_entries=max_entries, max_bytes=max_bytes, weigh=weigh, store=store, codec=codec,
            max_value_bytes=max_value_bytes, push_bytes=push_bytes, compress=compress, compress_above=compress_above,
            connect_timeout=connect_timeout, call_timeout=call_timeout, call_budget=call_budget,
            refresh_concurrency=refresh_concurrency, around_load=around_load, sign_with=sign_with,
        )  # fmt: skip
        if url is not None and client is not None:
            raise TypeError("give either a url or a client, not both")
        self.policy = policy or Policy()
        self.namespace = namespace
        self.codec: Codec = codec if codec is not None else MsgpackCodec()
        self._policies: dict[Any, Policy] = {}
        self._templates: dict[tuple[str, str], str] = {}  # whose function each of them is
        self._functions: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # by label
        super().__init__(Table(max_entries, max_bytes, store), self._clock(), self.policy.copy)
        check_ahead(self.policy, self.table.counts_hits)
        address = None if url is None and client is None else Address(url, client)
        signer = None if sign_with is None else Signer(check_keys(sign_with), namespace)
        self._process = Process(
            self.table,
            wire=self._wire_to(address, connect_timeout, max_value_bytes + _OVERHEAD),
            names=Names(namespace),
            half_life=self.policy.half_life,
            values=Values(self.codec, compress, compress_above, max_value_bytes, signer),
            weigh=weigher(weigh, max_bytes),
            now=self._clock() or monotonic,
            push_bytes=push_bytes,
            call_timeout=call_timeout,
            call_budget=call_budget,
            refresh_concurrency=refresh_concurrency,
            around_load=around_load,
        )
        self._shared = self._process.node.remote.shared
        self._finalizer = weakref.finalize(self, self._process.close)

    # For tiercache.testing.

    def _clock(self) -> Callable[[], float] | None:
        return None

    def _wire_to(self, address: Address | None, connect_timeout: float, limit: int) -> Wire | None:
        return None if address is None else RedisWire(address, connect_timeout, limit)

    # Reading.

    def _get(self, key: str, default: Any) -> Any:
        return self._shown(run(flow.get(self._blocking(), self._wire(key), self.policy)), default)

    async def _aget(self, key: str, default: Any) -> Any:
        return self._shown(await flow.get(self._aio(), self._wire(key), self.policy), default)

    def _shown(self, outcome: Outcome, default: Any) -> Any:
        # A negative error is nothing to show: who only looks gets the default.
        if outcome is AGAIN or outcome.error is not None:
            return default
        return copy.deepcopy(outcome.value) if self.policy.copy else outcome.value

    def _get_or_load(self, key: str, loader: Callable[[], Any], ttl: float | None, policy: dict[str, Any]) -> Any:
        return self._load(key, loader, self._derive(ttl, policy))

    def _aget_or_load(
        self, key: str, loader: Callable[[], Any], ttl: float | None, policy: dict[str, Any]
    ) -> Awaitable[Any]:
        return self._aload(key, loader, self._derive(ttl, policy))

    def _load(self, key: str, loader: Callable[[], Any], policy: Policy, mode: int = 0) -> Any:
        return _value(self._outcome(key, loader, policy, mode), policy)

    def _aload(self, key: str, loader: Callable[[], Any], policy: Policy, mode: int = 0) -> Awaitable[Any]:
        value: Any = value_of(self._calling, key, loader, policy, mode)
        # For the names of tasks and for warnings.
        value.__qualname__ = loader.name if isinstance(loader, Called) else "Cache.aget_or_load"
        return _copied(value) if policy.copy else value

    def _outcome(self, key: str, loader: Callable[[], Any], policy: Policy, mode: int = 0) -> Outcome:
        _check_loader(loader, blocking=True)
        return outcome_in_thread(run(flow.get_or_load(self._blocking(), self._wire(key), loader, policy, mode)))

    async def _calling(self, key: str, loader: Callable[[], Any], policy: Policy, mode: int = 0) -> Outcome | Following:
        _check_loader(loader, blocking=False)
        return await flow.get_or_load(self._aio(), self._wire(key), loader, policy, mode)

    @overload
    def lookup(
        self, key: str, loader: Callable[[], Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> Result[T]: ...
    @overload
    def lookup(
        self, key: str, loader: Callable[[], T | Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> Result[T]: ...
    def lookup(self, key: str, loader: Callable[[], Any], *, ttl: float | None = None, **policy: Any) -> Any:
        """`get_or_load`, and how the value was come by: a `Result`. Raises what `get_or_load` raises."""
        derived = self._derive(ttl, policy)
        self._process.node.note_births()
        return self._result(self._outcome(key, loader, derived), derived)

    @overload
    async def alookup(
        self, key: str, loader: Callable[[], Awaitable[Loaded[T]]], *, ttl: float | None = None, **policy: Any
    ) -> Result[T]: ...
    @overload
    async def alookup(
        self, key: str, loader: Callable[[], Awaitable[T | Loaded[T]]], *, ttl: float | None = None, **policy: Any
    ) -> Result[T]: ...
    @overload
    async def alookup(
        self, key: str, loader: Callable[[], Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> Result[T]: ...
    @overload
    async def alookup(
        self, key: str, loader: Callable[[], T | Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> Result[T]: ...
    async def alookup(self, key: str, loader: Callable[[], Any], *, ttl: float | None = None, **policy: Any) -> Any:
        """Awaitable `lookup`."""
        derived = self._derive(ttl, policy)
        self._process.node.note_births()
        return self._result(await outcome_of(self._calling, key, loader, derived), derived)

    def _result(self, outcome: Outcome, policy: Policy) -> Result[Any]:
        value, born = _value(outcome, policy), outcome.born
        age = None if born is None else max(0.0, self._process.node.now() - born)
        return Result(value, outcome.source, age, outcome.stale, outcome.failure)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The cached values of `keys`, in one round trip per 512 keys; absent keys are left out."""
        wires = self._wires(keys)
        return self._shown_many(wires, run(flow.get_many(self._blocking(), list(wires), self.policy)))

    async def aget_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Awaitable `get_many`."""
        wires = self._wires(keys)
        return self._shown_many(wires, await flow.get_many(self._aio(), list(wires), self.policy))

    def _shown_many(self, wires: dict[str, str], found: dict[str, Outcome]) -> dict[str, Any]:
        return {wires[key]: self._shown(outcome, None) for key, outcome in found.items() if outcome.error is None}

    @overload
    def refresh(self, key: str, loader: Callable[[], Loaded[T]], *, ttl: float | None = None, **policy: Any) -> T: ...
    @overload
    def refresh(
        self, key: str, loader: Callable[[], T | Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> T: ...
    def refresh(self, key: str, loader: Callable[[], Any], *, ttl: float | None = None, **policy: Any) -> Any:
        """Load now, under the lease, whatever is cached; every process gets the new value, and so does the caller.

        If somebody is loading the key already, this waits for that load. Raises what the loader raises.
        """
        return self._load(key, loader, self._derive(ttl, policy), FORCE)

    @overload
    async def arefresh(
        self, key: str, loader: Callable[[], Awaitable[Loaded[T]]], *, ttl: float | None = None, **policy: Any
    ) -> T: ...
    @overload
    async def arefresh(
        self, key: str, loader: Callable[[], Awaitable[T | Loaded[T]]], *, ttl: float | None = None, **policy: Any
    ) -> T: ...
    @overload
    async def arefresh(
        self, key: str, loader: Callable[[], Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> T: ...
    @overload
    async def arefresh(
        self, key: str, loader: Callable[[], T | Loaded[T]], *, ttl: float | None = None, **policy: Any
    ) -> T: ...
    async def arefresh(self, key: str, loader: Callable[[], Any], *, ttl: float | None = None, **policy: Any) -> Any:
        """Awaitable `refresh`."""
        return await self._aload(key, loader, self._derive(ttl, policy), FORCE)

    # Writing.

    def set(self, key: str, value: Any, *, ttl: float | None = None, **policy: Any) -> None:
        """Store a value in both tiers for exactly `ttl` seconds, and tell every process.

        Raises CodecError, before anything is written, and RemoteUnavailable: then the old value is dropped here.
        """
        self.set_many({key: value}, ttl=ttl, **policy)

    async def aset(self, key: str, value: Any, *, ttl: float | None = None, **policy: Any) -> None:
        """Awaitable `set`."""
        await self.aset_many({key: value}, ttl=ttl, **policy)

    def set_many(self, mapping: Mapping[str, Any], *, ttl: float | None = None, **policy: Any) -> None:
        """`set` for many, in one round trip per 512 keys; nothing is written if one can't be encoded."""
        with _unavailable("set", mapping):
            run(flow.set_many(self._blocking(), self._wired(mapping), self._derive(ttl, policy)))

    async def aset_many(self, mapping: Mapping[str, Any], *, ttl: float | None = None, **policy: Any) -> None:
        """Awaitable `set_many`."""
        with _unavailable("set", mapping):
            await flow.set_many(self._aio(), self._wired(mapping), self._derive(ttl, policy))

    def invalidate(self, key: str, *more: str, keep_stale: bool = False) -> None:
        """From its return on, nothing that was loaded before is served: here, or where the message has arrived.

        A load that is running can't store its value any more. With `keep_stale` the old value stays for
        stale-if-error. Raises RemoteUnavailable: then only this process has forgotten the value.
        """
        keys = (key, *more)
        with _unavailable("invalidate", keys):
            run(flow.invalidate(self._blocking(), list(self._wires(keys)), keep_stale))

    async def ainvalidate(self, key: str, *more: str, keep_stale: bool = False) -> None:
        """Awaitable `invalidate`."""
        keys = (key, *more)
        with _unavailable("invalidate", keys):
            await flow.invalidate(self._aio(), list(self._wires(keys)), keep_stale)

    # The cache itself.

    def register(
        self,
        cls: type[T],
        *,
        name: str | None = None,
        to: Callable[[T], Any] | None = None,
        from_: Callable[[Any], T] | None = None,
    ) -> type[T]:
        """Let values of a class be stored: a dataclass by its fields, an enum by its members' names, else to=, from_=.

        `name` (default module.qualname) stands in Redis. Returns the class, so it can decorate one.
        """
        self.codec.register(cls, name=name, to=to, from_=from_)  # type: ignore[attr-defined]
        return cls

    def ping(self) -> None:
        """Return if Redis answers, allows every script and carries messages; else RemoteUnavailable says why."""
        with _unavailable("ping", ()):
            run(self._process.check(self._blocking()))

    async def aping(self) -> None:
        """Awaitable `ping`."""
        with _unavailable("ping", ()):
            await self._process.check(self._aio())

    def stats(self) -> dict[str, int]:
        """Counters since the start of this process, and `entries` and `bytes` of tier 1 as they are."""
        return dict.fromkeys(COUNTERS, 0) | self.table.stats()

    def hot(self, n: int = 10, *, fleet: bool = False) -> list[Hot]:
        """The `n` keys that this process's tier 1 is asked for most often, hottest first; fewer if fewer are hit.

        Rates are hits per second, decayed with the `half_life` of the cache's policy; hits are counted from the first
        call on, which therefore returns nothing, and with Redis from its first use on. A key keeps its popularity
        when its value is new, set or invalidated; one that was evicted begins anew. Keys are those of tier 1: a long
        one is `#` and a digest. Takes a look at every entry: a few milliseconds for a million. Raises TypeError where
        a `store` was given, whose hits nobody counts, and ValueError for a negative `n`.

        With `fleet` the sum over all processes of the namespace, of which Redis keeps 1,000 keys: each process adds
        its 100 largest gains every 5 s. Raises ValueError without Redis, and RemoteUnavailable.
        """
        if not fleet:
            return [Hot(*each) for each in self.table.hot(_many(n), self._process.node.now(), self.policy.half_life)]
        with _unavailable("hot", ()):
            return [Hot(*each) for each in run(self._process.hottest(self._blocking(), _many(n)))]

    async def ahot(self, n: int = 10, *, fleet: bool = False) -> list[Hot]:
        """Awaitable `hot`."""
        if not fleet:
            return self.hot(n)
        with _unavailable("hot", ()):
            return [Hot(*each) for each in await self._process.hottest(self._aio(), _many(n))]

    def on_event(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback` with each event of `tiercache.events`; the result, called, ends that.

        It is called where things happen: in callers' threads, on their event loops and in our own threads, so it must
        be quick and thread-safe. One that raises is logged once and goes on being called. While anybody listens, hits
        take the longer way.
        """
        if not callable(callback) or is_async(callback):
            raise TypeError("callback must be a callable that is not async, and takes the event")
        listener = object()
        self._listen(listener, callback)
        return partial(self._listen, listener, None)

    def _listen(self, listener: object, callback: Callable[[Event], object] | None) -> None:
        listeners = self._process.node.events
        with listeners.lock:
            if callback is None:
                listeners.pop(listener, None)
            else:
                listeners[listener] = callback
            # The compiled face tells nobody: while somebody listens, every hit takes the way on which it is told.
            self._detour = self.policy.copy or bool(listeners)

    def clear_local(self) -> None:
        """Empty this process's tier 1, its remembered failures too; Redis and other processes keep what they have."""
        self._process.node.failures.clear()
        self._process.node.softened.clear()
        self.table.clear()

    def close(self) -> None:
        """Give leases back, end threads, close connections. The cache can't be used afterwards."""
        self._process.close()

    async def aclose(self) -> None:
        """Awaitable `close`."""
        from tiercache.aio import aclose

        await aclose(self._process.loops(), self._process.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<tiercache.Cache {self.namespace!r}{' closed' if self._process.node.closed else ''}>"

    # What every slow call begins with.

    def _blocking(self) -> Port:
        process = self._process
        process.wake()
        return process.blocking()

    def _aio(self) -> Port:
        self._process.wake()
        return self._process.aio()

    def _wire(self, key: str) -> str:
        if is_plain(key):
            return key
        checked = check_key(key)
        wire = wire_key(checked) if self._shared else checked
        if wire is not checked:
            self._process.node.spelled(wire, checked)
        return wire

    def _wires(self, keys: Iterable[str]) -> dict[str, str]:
        if isinstance(keys, (str, bytes)):
            raise TypeError("keys must be an iterable of keys, not one key")
        return {self._wire(key): key for key in keys}

    def _wired(self, mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {self._wire(key): value for key, value in mapping.items()}

    def _derive(self, ttl: float | None, changes: dict[str, Any]) -> Policy:
        if ttl is not None:
            changes = {"ttl": ttl, **changes}
        if not changes:
            return self.policy
        try:
            known = tuple((name, type(value), value) for name, value in changes.items())
            policy = self._policies.get(known)
        except TypeError:  # something unhashable: the check below says what is wrong with it
            return self.policy.override(changes)
        if policy is None:
            policy = check_ahead(self.policy.override(changes), self.table.counts_hits)
            if len(self._policies) >= 256:
                self._policies.clear()
            self._policies[known] = policy
        return policy


class _unavailable:
    """Turns what the protocol says about Redis into what users catch, naming the keys."""

    def __init__(self, doing: str, keys: Iterable[str]) -> None:
        self._doing = doing
        self._keys = keys

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (RemoteDown, RemoteRefused)):
            keys = list(self._keys)
            named = repr(keys[0]) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "") if keys else ""
            raise RemoteUnavailable(f"{self._doing} {named}: {error}".replace(" :", ":")) from None


def _value(outcome: Outcome, policy: Policy) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return copy.deepcopy(outcome.value) if policy.copy else outcome.value


async def _copied(value: Awaitable[T]) -> T:
    return copy.deepcopy(await value)


def _many(n: int) -> int:
    if n < 0:
        raise ValueError(f"n={n!r}: must not be negative")
    return n


def _check_loader(loader: Any, blocking: bool) -> None:
    if not callable(loader):
        raise TypeError(f"loader must be a callable without arguments, not {type(loader).__name__}")
    if blocking and is_async(loader):
        raise TypeError("the loader is async: use the a-method (aget_or_load, arefresh), or a sync loader")
