"""The public names: what is exported, documented, doubled in both colours and counted."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiercache
from tiercache import Cache, Policy
from tiercache.decorator import BoundCoroutineFunction, BoundFunction, CachedCoroutineFunction, CachedFunction
from tiercache.local import face


def words(text: str) -> list[str]:
    return text.split()


PACKAGE = Path(tiercache.__file__).parent
EXPORTED = words("""
    Cache Policy Codec MsgpackCodec Loaded Result Hot
    TierCacheError LoadTimeout LoadFailed RemoteUnavailable ReentrantLoadError CodecError PolicyError CacheClosed
""")
METHODS = words("""
    get get_or_load get_many set set_many invalidate refresh ping
    aget aget_or_load aget_many aset aset_many ainvalidate arefresh aping
    lookup alookup stats hot ahot on_event clear_local close aclose cached register
""")
COUNTERS = words("""
    hits_local hits_remote misses loads load_failures early_refreshes stale_served joins waits grants busy cooldowns
    commits commit_rejected leases_lost bypass_nested bypass_loop bypass_breaker bypass_unanswered bypass_refused
    epochs evictions breaker_opened undecodable entries bytes
""")
POLICY = words("""
    ttl jitter beta stale_while_revalidate stale_if_error negative_ttl negative_errors local_ttl lease max_load timeout
    soft_timeout nested_wait on_abandon error_backoff error_backoff_max half_life refresh refresh_ahead
    hot_rate copy
""")
SETTINGS = words("""
    url namespace policy max_entries max_bytes weigh store client codec max_value_bytes push_bytes compress
    compress_above connect_timeout call_timeout call_budget refresh_concurrency around_load sign_with
""")
BASES = {"LoadTimeout": TimeoutError, "PolicyError": ValueError, "CacheClosed": RuntimeError}


def public(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(cls):
        if not name.startswith("_") and callable(member):
            yield f"{cls.__name__}.{name}", member


def test_the_exported_names_are_those_of_the_architecture() -> None:
    """No more and no less, each one there, and a star import gives them."""
    assert sorted(tiercache.__all__) == sorted(EXPORTED)
    namespace: dict[str, Any] = {}
    exec("from tiercache import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(EXPORTED)


def test_exported_names_are_documented_and_errors_have_their_bases() -> None:
    """Each name is documented, and the errors stand under TierCacheError and the built-in one of their kind."""
    for name in EXPORTED:
        thing = getattr(tiercache, name)
        assert inspect.getdoc(thing), name
        if isinstance(thing, type) and issubclass(thing, Exception):
            assert issubclass(thing, tiercache.TierCacheError)
            assert issubclass(thing, BASES.get(name, Exception))


def test_the_cache_has_exactly_the_methods_of_the_architecture() -> None:
    """Public methods of Cache and nothing else; the data beside them are the settings that can be read."""
    assert {name.split(".")[1] for name, _ in public(Cache)} == set(METHODS)
    with Cache() as cache:
        shown = {name for name in dir(cache) if not name.startswith("_")} - set(METHODS)
    assert shown == {"codec", "namespace", "policy", "table"}


@pytest.mark.parametrize(
    ("callable_", "names"), [(Cache, SETTINGS), (Policy, POLICY)], ids=lambda value: getattr(value, "__name__", "")
)
def test_constructors_take_the_settings_of_the_architecture(callable_: Any, names: list[str]) -> None:
    """Every field is there, in any order, and no other."""
    assert sorted(inspect.signature(callable_).parameters) == sorted(names)


def test_every_public_callable_is_documented() -> None:
    """A docstring of its own on every class and method, and on what the decorator returns."""
    kinds = (Cache, Policy, tiercache.Codec, tiercache.MsgpackCodec)
    cached = (CachedFunction, CachedCoroutineFunction, BoundFunction, BoundCoroutineFunction)
    undocumented = [name for cls in (*kinds, *cached) for name, member in public(cls) if not inspect.getdoc(member)]
    undocumented += [cls.__name__ for cls in (*kinds, *cached) if not cls.__doc__]
    assert undocumented == []


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", [name for name in METHODS if "a" + name in METHODS])
def test_each_sync_method_has_an_awaitable_twin(name: str) -> None:
    """Same parameters, kinds and defaults; the twin's documentation names the sync one."""
    sync, twin = getattr(Cache, name), getattr(Cache, "a" + name)
    assert parameters(sync) == parameters(twin)
    assert f"`{name}`" in inspect.getdoc(twin)
    assert not inspect.iscoroutinefunction(sync)


def test_the_stub_of_the_face_tells_the_truth() -> None:
    """The methods in face.pyi are those of the compiled face, with their parameters."""
    stub = ast.parse((PACKAGE / "local" / "face.pyi").read_text())
    for cls in (each for each in stub.body if isinstance(each, ast.ClassDef)):
        told = {each.name: each.args for each in cls.body if isinstance(each, ast.FunctionDef)}
        compiled = {name: member for name, member in vars(getattr(face, cls.name)).items() if callable(member)}
        assert {name for name in compiled if not name.startswith("__")} <= told.keys(), cls.name
        for name, args in told.items():
            if not name.startswith("__"):
                names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.kwarg) if arg]
                assert names == [each for each, _, _ in parameters(compiled[name])], name


def test_stats_has_every_counter_from_the_start() -> None:
    """All names of the architecture are there, as ints, before anything has happened."""
    with Cache() as cache:
        stats = cache.stats()
    assert stats.keys() >= set(COUNTERS)
    assert all(type(value) is int for value in stats.values())
    assert not any(stats.values())


def test_stats_has_no_counter_that_is_not_declared() -> None:
    """What the code counts anywhere is in stats() from the start: a dashboard meets no new names later."""
    counted = set()
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")]:
        counted |= set(re.findall(r'\b(?:count|bump|_bypass)\((?:\w+, )?"(\w+)"', path.read_text()))
    with Cache() as cache:
        assert counted <= cache.stats().keys()
    assert len(counted) > 15
