"""cached(): what it takes and refuses, and what a decorated function is and does."""

import asyncio
import copy
import functools
import gc
import importlib
import inspect
import io
import pickle
import re
import sys
import threading
import typing
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache import Cache, Policy, PolicyError, ReentrantLoadError
from tiercache.testing import MemoryCache, SteppedClock

GLOBAL = Cache()


@GLOBAL.cached("pickled:{x}")
def pickled(x: int) -> int:
    return x


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        yield cache


class Calls(list[Any]):
    """Loaders of both colours that note their arguments and give what they are told, by default a new list."""

    def __init__(self, *results: Any) -> None:
        super().__init__()
        self.results = results

    def _note(self, *args: Any) -> Any:
        self.append(args)
        if not self.results:
            return [*args]
        result = self.results[min(len(self), len(self.results)) - 1]
        if isinstance(result, BaseException):
            raise result
        return result

    def sync(self) -> Callable[..., Any]:
        def load(x: Any, y: Any = 0) -> Any:
            return self._note(x, y)

        return load

    def coroutine(self) -> Callable[..., Any]:
        async def load(x: Any, y: Any = 0) -> Any:
            return self._note(x, y)

        return load


class Sync:
    make = Calls.sync

    @staticmethod
    def end(value: Any) -> Any:
        return value


class Async:
    make = Calls.coroutine

    @staticmethod
    def end(value: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await value

        return asyncio.run(main())


colours = pytest.mark.parametrize("colour", [Sync, Async])


# What it takes.


@colours
@pytest.mark.parametrize(
    "decorate",
    [
        lambda cache: cache.cached,
        lambda cache: cache.cached(),
        lambda cache: cache.cached("x:{x}:{y}"),
        lambda cache: cache.cached(key=lambda x, y=0: f"{x}/{y}"),
        lambda cache: cache.cached(ignore=("y",), version="2"),
        lambda cache: cache.cached("x:{x}", version="2", ttl=60, jitter=0, negative_errors=(KeyError,)),
    ],
    ids=["bare", "empty", "template", "key", "ignore", "policy"],
)
def test_a_decorated_function_loads_once_in_every_form(cache: Cache, colour: Any, decorate: Any) -> None:
    """Whatever way the key is named, the second call is a hit and gives the same object."""
    calls = Calls()
    load = decorate(cache)(colour.make(calls))
    first = colour.end(load(1))
    assert colour.end(load(1)) is first
    assert first == [1, 0]
    assert colour.end(load(2)) == [2, 0]
    assert calls == [(1, 0), (2, 0)]


def test_a_template_names_the_key(cache: Cache) -> None:
    """The key is the template with the arguments in it, and other calls of the cache share it."""

    @cache.cached("item:{item_id}:{language}")
    def item(item_id: int, language: str = "en") -> str:
        return f"{item_id} {language}"

    assert item.key(42) == "item:42:en"
    assert item(42) == cache.get("item:42:en") == "42 en"


def test_key_is_called_with_the_functions_arguments(cache: Cache) -> None:
    """key= gets what the caller gave, as it was given."""

    @cache.cached(key=lambda *args, **kwargs: repr((args, kwargs)))
    def load(x: int, y: int = 0) -> int:
        return x

    assert load.key(1, y=2) == "((1,), {'y': 2})"


def test_ignored_arguments_share_an_entry(cache: Cache) -> None:
    """An ignored argument reaches the loader, but not the key."""
    calls = Calls()
    load = cache.cached(ignore=("y",))(calls.sync())
    assert load(1, 5) is load(1, 6)
    assert load(1, object()) == [1, 5]
    assert calls == [(1, 5)]


def test_versions_have_entries_of_their_own(cache: Cache) -> None:
    """A new version of a function does not see the old one's values, even with one template."""

    @cache.cached("x:{x}")
    def old(x: int) -> str:
        return "old"

    @cache.cached("x:{x}", version="2")
    def new(x: int) -> str:
        return "new"

    assert (old(1), new(1), old(1)) == ("old", "new", "old")


def test_one_decorator_decorates_many_functions(cache: Cache) -> None:
    """What cached(...) returns can be kept, and used again."""
    shortly = cache.cached(ttl=5)

    @shortly
    def one(x: int) -> int:
        return x

    @shortly
    def two(x: int) -> int:
        return -x

    assert (one(1), two(1)) == (1, -1)


# What it refuses.


def test_an_unknown_policy_field_is_a_type_error(cache: Cache) -> None:
    """A misspelt field is told at decoration, with the fields there are."""
    with pytest.raises(TypeError, match=r"'tll' is not a field of Policy; the fields are .*\bttl\b"):
        cache.cached("x:{x}", tll=60)


@pytest.mark.parametrize(("field", "value"), [("ttl", 0), ("ttl", None), ("ttl", "60"), ("jitter", 1), ("copy", 1)])
def test_a_wrong_policy_value_is_a_policy_error(cache: Cache, field: str, value: Any) -> None:
    """A field outside its range is told at decoration, by name."""
    with pytest.raises(PolicyError, match=field):
        cache.cached(**{field: value})


@pytest.mark.parametrize("template", ["", "x:{y}", "{x}{x}", "x:{", "x:{x!z}", "x:{}"])
def test_a_template_that_does_not_fit_is_a_value_error(cache: Cache, template: str) -> None:
    """A template is read at decoration."""
    with pytest.raises(ValueError, match="template"):

        @cache.cached(template)
        def load(x: int) -> int: ...


def test_one_template_on_two_functions_is_a_value_error(cache: Cache) -> None:
    """Two functions can't share their values by accident; the error names both."""

    @cache.cached("x:{x}")
    def one(x: int) -> int: ...

    with pytest.raises(ValueError, match=r"'x:\{x\}' of .*\.two belongs to .*\.one already"):

        @cache.cached("x:{x}")
        def two(x: int) -> int: ...


def test_one_template_on_two_lambdas_is_a_value_error(cache: Cache) -> None:
    """Lambdas have one name, but are told apart."""
    cache.cached("x:{x}")(lambda x: 1)
    with pytest.raises(ValueError, match="belongs to"):
        cache.cached("x:{x}")(lambda x: 2)


def test_a_refused_function_claims_no_template(cache: Cache) -> None:
    """What could not be decorated does not stand in the way."""
    with pytest.raises(ValueError, match="template"):

        @cache.cached("x:{x}")
        def wrong(y: int) -> int: ...

    @cache.cached("x:{x}")
    def right(x: int) -> int: ...


def test_a_function_may_be_decorated_again(cache: Cache) -> None:
    """A factory's functions are one function by name, and share the template."""

    def factory() -> Any:
        @cache.cached("x:{x}")
        def load(x: int) -> int:
            return x

        return load

    assert factory()(1) == factory()(1) == 1


def test_a_module_can_be_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running a module again decorates its functions again."""
    (tmp_path / "reloaded_module.py").write_text(
        "cache = globals().get('cache') or __import__('tiercache').Cache()\n"
        "@cache.cached('x:{x}')\ndef load(x):\n    return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_module")
    try:
        assert importlib.reload(module).load(1) == 1
    finally:
        del sys.modules["reloaded_module"]


def test_caches_do_not_share_templates(cache: Cache) -> None:
    """Another cache has keys of its own."""
    with Cache() as other:
        load = Calls().sync()
        cache.cached("x:{x}")(load)
        other.cached("x:{x}")(lambda x: x)


def generator(x: int) -> Iterator[int]:
    yield x


async def async_generator(x: int) -> Any:
    yield x


class GeneratorObject:
    def __call__(self, x: int) -> Iterator[int]:
        yield x


@pytest.mark.parametrize(
    "function",
    [generator, async_generator, partial(generator), partial(async_generator), GeneratorObject()],
    ids=["generator", "async", "partial", "async partial", "object"],
)
@pytest.mark.parametrize("template", [None, "x:{x}"])
def test_a_generator_is_a_type_error(cache: Cache, function: Any, template: str | None) -> None:
    """A result that can be read only once can't be cached."""
    with pytest.raises(TypeError, match="generator"):
        cache.cached(template)(function)


def test_cached_above_a_method_decorator_is_a_type_error(cache: Cache) -> None:
    """The error says what to write: cached below, next to the function."""
    for kind in (classmethod, staticmethod, property):
        for decorate in (cache.cached, cache.cached("x:{x}")):
            with pytest.raises(TypeError, match=rf"put @cached below @{kind.__name__}"):
                decorate(kind(lambda x: x))  # type: ignore[operator]


@pytest.mark.parametrize("thing", [42, b"x:{x}", ["x:{x}"], object()], ids=type)
def test_what_is_neither_template_nor_function_is_a_type_error(cache: Cache, thing: Any) -> None:
    """A slip of the hand is told at decoration."""
    with pytest.raises(TypeError, match=f"template .* function; this is {type(thing).__name__}"):
        cache.cached(thing)
    with pytest.raises(TypeError, match=type(thing).__name__):
        cache.cached()(thing)


async def async_key(x: int) -> str:
    return "k"


@pytest.mark.parametrize("key", ["x:{x}", 42, async_key])
def test_a_key_that_is_no_plain_callable_is_a_type_error(cache: Cache, key: Any) -> None:
    """key= is checked at decoration: templates go first, and an async callable can't be awaited there."""
    with pytest.raises(TypeError, match="key must be a callable"):
        cache.cached(key=key)


def test_wrong_companions_are_refused_at_decoration(cache: Cache) -> None:
    """ignore= and version= are checked with the function; the form that can't use them says so."""
    load = Calls().sync()
    with pytest.raises(TypeError, match="ignore"):
        cache.cached(ignore="y")(load)
    with pytest.raises(TypeError, match="version"):
        cache.cached(version=2)(load)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="ignore"):
        cache.cached(ignore=("z",))(load)
    with pytest.raises(ValueError, match="key="):
        cache.cached("x:{x}", key=str)(load)


# What a decorated function is.


def documented(x: int, *, y: "str" = "a") -> dict[str, int]:
    """What it does."""
    return {y: x}


documented.mark = [1]  # type: ignore[attr-defined]
documented.key = "shadow"  # type: ignore[attr-defined]


def test_a_decorated_function_looks_like_the_function(cache: Cache) -> None:
    """Name, documentation, signature, hints and attributes are the function's; its own methods stay."""
    cached = cache.cached(documented)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(cached, name) == getattr(documented, name)
    assert cached.__wrapped__ is documented
    assert inspect.signature(cached) == inspect.signature(documented)
    assert typing.get_type_hints(cached) == {"x": int, "y": str, "return": dict[str, int]}
    assert cached.mark is documented.mark  # type: ignore[attr-defined]
    assert callable(cached.key)
    assert repr(cached) == f"<cached {__name__}.documented>"
    assert weakref.ref(cached)() is cached
    rendered = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", rendered)
        help(cached)
    assert "What it does." in rendered.getvalue()


def test_a_decorated_function_is_pickled_by_name(cache: Cache) -> None:
    """It goes to other processes as functions do; one that has no importable name is refused."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(pickled, protocol)) is pickled
    assert pickle.loads(pickle.dumps(partial(pickled, 3)))() == 3
    assert copy.copy(pickled) is copy.deepcopy(pickled) is pickled
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(cache.cached("x:{x}")(Calls().sync()))


async def fetch(x: int, y: int = 0) -> list[int]:
    return [x, y]


class Fetcher:
    async def __call__(self, x: int, y: int = 0) -> list[int]:
        return [x, y]

    async def method(self, x: int, y: int = 0) -> list[int]:
        return [x, y]


@pytest.mark.parametrize(
    "function",
    [fetch, partial(fetch, y=0), partial(partial(fetch), y=0), Fetcher(), partial(Fetcher()), Fetcher().method],
    ids=["function", "partial", "partials", "object", "partial of object", "bound method"],
)
def test_a_coroutine_function_stays_one(cache: Cache, function: Any) -> None:
    """However it is hidden, inspect and asyncio see the decorated one as a coroutine function, which it is."""
    cached = cache.cached("x:{x}")(function)
    assert inspect.iscoroutinefunction(cached)
    assert inspect.iscoroutinefunction(partial(cached))
    assert asyncio.iscoroutinefunction(cached)
    assert inspect.signature(cached) == inspect.signature(function)
    for _ in range(2):
        assert asyncio.run(cached(1)) == [1, 0]
    assert inspect.iscoroutinefunction(cached.invalidate)
    assert inspect.iscoroutinefunction(cached.refresh)


def test_a_sync_function_is_no_coroutine_function(cache: Cache) -> None:
    """The wrapper has the function's colour."""
    cached = cache.cached("x:{x}")(Calls().sync())
    assert not inspect.iscoroutinefunction(cached)
    assert not asyncio.iscoroutinefunction(cached)
    assert not inspect.iscoroutinefunction(cached.refresh)


class Point:
    key = "the class's own"

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x


@pytest.mark.parametrize("function", [abs, partial(pow, 2), Point], ids=["builtin", "partial", "class"])
def test_callables_of_every_kind_can_be_decorated(cache: Cache, function: Any) -> None:
    """Builtins, classes and partials have no code to look at, but can be called."""
    load = cache.cached(key=lambda x: f"k:{x}")(function)
    assert load(7) is load(7)
    assert load(7) == function(7)
    assert load.key(7) == "k:7"


def test_a_bound_method_can_be_decorated(cache: Cache) -> None:
    """Decorating `service.load` needs a template or key=, and then works."""
    box = SimpleNamespace(runs=0)

    class Service:
        def load(self, x: int) -> int:
            box.runs += 1
            return x

    load = cache.cached("x:{x}")(Service().load)
    assert (load(1), load(1), box.runs) == (1, 1, 1)


def test_caches_can_be_stacked(cache: Cache) -> None:
    """A decorated function is a function: it can be decorated again, with another cache or by others."""
    with Cache() as outer:
        calls = Calls()
        inner_load = cache.cached("x:{x}")(calls.sync())
        load = outer.cached("outer:{x}")(inner_load)
        assert load(1) is load(1) is inner_load(1)
        assert load.__wrapped__ is inner_load
        load.invalidate(1)
        assert load(1) is inner_load(1)
        assert calls == [(1, 0)]
        assert (load.key(1), inner_load.key(1)) == ("outer:1", "x:1")
        again = functools.lru_cache(load)
        assert again(1) is load(1)


def test_async_caches_can_be_stacked(cache: Cache) -> None:
    """Stacked or not, colour is kept."""
    with Cache() as outer:
        calls = Calls()
        load = outer.cached("outer:{x}")(cache.cached("x:{x}")(calls.coroutine()))
        assert inspect.iscoroutinefunction(load)
        assert asyncio.run(load(1)) is asyncio.run(load(1))
        assert calls == [(1, 0)]


# Arguments.


@colours
def test_one_call_has_one_entry_however_it_is_written(cache: Cache, colour: Any) -> None:
    """Defaults and the order of keywords make no difference."""
    calls = Calls()
    load = cache.cached(colour.make(calls))
    ways = [((1, 0), {}), ((1,), {}), ((1,), {"y": 0}), ((), {"x": 1}), ((), {"y": 0, "x": 1}), ((), {"x": 1, "y": 0})]
    for args, kwargs in ways * 2:
        assert colour.end(load(*args, **kwargs)) == [1, 0]
        assert load.key(*args, **kwargs) == load.key(1)
    assert len(calls) == 1


@colours
def test_lookalike_arguments_never_meet(cache: Cache, colour: Any) -> None:
    """1, True, 1.0 and "1" are four calls, in every order and when they are repeated."""
    calls = Calls()
    load = cache.cached(colour.make(calls))
    values = [1, "1", True, 1.0]
    for value in [*values, *reversed(values), *values]:
        [got, _] = colour.end(load(value))
        assert (got, type(got)) == (value, type(value))
    assert len(calls) == 4


@colours
@pytest.mark.parametrize("arguments", [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})], ids=repr)
@pytest.mark.parametrize("template", [None, "x:{x}"])
def test_wrong_arguments_are_a_type_error(cache: Cache, colour: Any, arguments: Any, template: str | None) -> None:
    """What the function would refuse is refused at the call, key and invalidate too; nothing is loaded."""
    calls = Calls()
    load = cache.cached(template)(colour.make(calls))
    args, kwargs = arguments
    for call in (load, load.key, load.invalidate, load.refresh):
        with pytest.raises(TypeError, match=r"load\(\)"):
            colour.end(call(*args, **kwargs))
    assert calls == []


@pytest.mark.parametrize("value", [object(), open, lambda: 1, io.BytesIO(), range(3), threading.Lock()], ids=type)
def test_an_argument_without_a_stable_form_is_a_type_error(cache: Cache, value: Any) -> None:
    """The call says which argument, and the ways out."""
    calls = Calls()
    for load in (cache.cached(calls.sync()), cache.cached(calls.coroutine())):
        with pytest.raises(TypeError, match=r"argument 'x'.*template, key=, ignore=\('x',\)"):
            load(value)
    assert calls == []


@pytest.mark.parametrize("value", [[1, [2]], {"a": [1]}, {1, 2}, bytearray(b"x")], ids=repr)
def test_an_unhashable_argument_is_read_by_value(cache: Cache, value: Any) -> None:
    """Lists, dicts and sets have a stable form: equal ones are one call. A bytearray has none."""
    calls = Calls("loaded")
    load = cache.cached(calls.sync())
    if isinstance(value, bytearray):
        with pytest.raises(TypeError, match="bytearray"):
            load(value)
        return
    assert load(value) == load(copy.deepcopy(value)) == "loaded"
    assert len(calls) == 1


@colours
def test_parameters_may_have_any_name(cache: Cache, colour: Any) -> None:
    """No name of ours stands in the way of a keyword."""
    calls = Calls("loaded", "refreshed")
    if colour is Sync:

        def load(key: int, self: int, args: int, *, kwargs: int, ttl: int, loader: int, instance: int, cls: int) -> Any:
            return calls._note(key, self, args, kwargs, ttl, loader, instance, cls)
    else:

        async def load(  # type: ignore[misc]
            key: int, self: int, args: int, *, kwargs: int, ttl: int, loader: int, instance: int, cls: int
        ) -> Any:
            return calls._note(key, self, args, kwargs, ttl, loader, instance, cls)

    names = ("key", "self", "args", "kwargs", "ttl", "loader", "instance", "cls")
    arguments = {name: at for at, name in enumerate(names)}
    template = ":".join(f"{{{name}}}" for name in names)
    for decorated in (cache.cached(load), cache.cached("t:" + template)(load)):
        calls.clear()
        cached: Any = decorated
        assert colour.end(cached(**arguments)) == "loaded"
        assert colour.end(cached.refresh(**arguments)) == "refreshed"
        colour.end(cached.invalidate(**arguments))
        assert cache.get(cached.key(**arguments)) is None
        assert calls == [tuple(range(8))] * 2


def test_functions_of_every_kind_of_parameter(cache: Cache) -> None:
    """Collected and keyword-only arguments are part of the call."""
    calls: list[Any] = []

    @cache.cached
    def load(a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> Any:
        calls.append((a, b, rest, c, more))
        return len(calls)

    for _ in range(2):
        assert load(1, 2) == 1
        assert load(1, 2, 3) == 2
        assert load(1, b=2, c=4) == 3
        assert load(1, 2, c=3, a=5) == 4
    assert calls[3] == (1, 2, (), 3, {"a": 5})


def test_a_function_without_parameters(cache: Cache) -> None:
    """There is one call, and it is cached."""
    calls = Calls()

    @cache.cached
    def settings() -> Any:
        return calls._note()

    assert settings() is settings()
    settings.invalidate()
    settings()
    assert calls == [(), ()]


# key, invalidate, refresh.


@colours
def test_invalidate_is_seen_by_the_next_call(cache: Cache, colour: Any) -> None:
    """However often a call was answered by the short way, an invalidated value is loaded anew."""
    calls = Calls()
    load = cache.cached("x:{x}")(colour.make(calls))
    first = [colour.end(load(1)) for _ in range(3)]
    assert colour.end(load.invalidate(1)) is None
    second = [colour.end(load(1)) for _ in range(3)]
    cache.invalidate(load.key(1))
    colour.end(load(1))
    assert first[0] is first[2] is not second[0] is second[2]
    assert len(calls) == 3


@colours
def test_what_the_cache_is_told_is_what_the_function_gives(cache: Cache, colour: Any) -> None:
    """set, clear_local and refresh reach the short way from arguments to a value at once."""
    calls = Calls("loaded")
    load = cache.cached("x:{x}")(colour.make(calls))
    assert colour.end(load(1)) == "loaded"
    cache.set(load.key(1), "set")
    assert colour.end(load(1)) == "set"
    cache.refresh(load.key(1), lambda: "refreshed")
    assert colour.end(load(1)) == "refreshed"
    cache.clear_local()
    assert colour.end(load(1)) == "loaded"


@colours
def test_refresh_loads_now_and_stores(cache: Cache, colour: Any) -> None:
    """Whatever is cached, refresh runs the function and everybody gets what it gave."""
    calls = Calls("first", "second", KeyError("third"))
    load = cache.cached("x:{x}:{y}")(colour.make(calls))
    assert colour.end(load(1)) == "first"
    assert colour.end(load.refresh(x=1)) == "second"
    assert colour.end(load(1)) == "second"
    with pytest.raises(KeyError, match="third"):
        colour.end(load.refresh(1))
    assert colour.end(load(1)) == "second"


def test_a_function_that_asks_for_itself_is_told(cache: Cache) -> None:
    """Calling, or refreshing, the very same call inside the loader is an error, not a deadlock."""

    @cache.cached("x:{x}")
    def load(x: int) -> Any:
        if x < 0:
            return load(-x - 1)
        return load.refresh(x) if x % 2 else load(x)

    for x in (1, 2):
        with pytest.raises(ReentrantLoadError, match=f"x:{x}"):
            load(x)


def test_a_recursive_function_may_load_other_calls(cache: Cache) -> None:
    """A recursion whose arguments differ is cached at every step."""
    runs: list[int] = []

    @cache.cached("fibonacci:{n}")
    def fibonacci(n: int) -> int:
        runs.append(n)
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(20) == 6765
    assert sorted(runs) == list(range(21))


@colours
def test_errors_are_the_functions_own(cache: Cache, colour: Any) -> None:
    """What the function raises reaches the caller as it is, and nothing is cached for good."""
    calls = Calls(OSError("down"))
    load = cache.cached("x:{x}")(colour.make(calls))
    with pytest.raises(OSError, match="down"):
        colour.end(load(1))
    assert cache.get(load.key(1)) is None


# Policy.


def test_ttl_is_the_decorators() -> None:
    """A decorated function's values live as long as its own policy says."""
    clock = SteppedClock()
    with MemoryCache(clock=clock) as cache:
        calls = Calls()
        load = cache.cached("x:{x}", ttl=10, jitter=0, stale_if_error=0, beta=0)(calls.sync())
        load(1)
        clock.step(9)
        load(1)
        assert len(calls) == 1
        clock.step(2)
        load(1)
        assert len(calls) == 2


@colours
def test_negative_errors_are_answers(cache: Cache, colour: Any) -> None:
    """An error that the decorator names is cached, and raised again without a load."""
    calls = Calls(LookupError("no such row"))
    load = cache.cached("x:{x}", negative_errors=(LookupError,))(colour.make(calls))
    for _ in range(3):
        with pytest.raises(LookupError, match="no such row"):
            colour.end(load(1))
    assert len(calls) == 1


@colours
@pytest.mark.parametrize("where", ["decorator", "cache"])
def test_copy_gives_each_caller_its_own(colour: Any, where: str) -> None:
    """With copy=True nobody can change what another caller gets: on a miss, on hits, on a refresh."""
    loaded = {"a": [1]}
    with Cache(policy=Policy(copy=where == "cache")) as cache:
        calls = Calls(loaded)
        policy = {"copy": True} if where == "decorator" else {}
        load = cache.cached("x:{x}", **policy)(colour.make(calls))
        for _ in range(4):
            mine = colour.end(load(1))
            assert mine == {"a": [1]}
            mine["a"].append(2)
        mine = colour.end(load.refresh(1))
        mine["a"].append(2)
        assert colour.end(load(1)) == loaded == {"a": [1]}
        assert len(calls) == 2


def test_copies_are_deep_for_every_task(cache: Cache) -> None:
    """Callers that wait for one load get a copy each, too."""
    load = cache.cached("x:{x}", copy=True)(Calls([[1], [2]]).coroutine())

    async def main() -> list[Any]:
        return await asyncio.gather(*[load(1) for _ in range(5)], load(1))

    answers = asyncio.run(main())
    assert all(answer == [[1], [2]] for answer in answers)
    assert len({id(answer[0]) for answer in answers}) == 6


def test_without_copy_values_are_shared(cache: Cache) -> None:
    """As functools.lru_cache does it."""
    load = cache.cached("x:{x}")(Calls().sync())
    assert load(1) is load(1)


# The short way from arguments to a value.


def test_key_may_depend_on_more_than_the_arguments(cache: Cache) -> None:
    """key= is asked at every call: a tenant never sees another tenant's value."""
    tenant = ContextVar("tenant", default="a")

    @cache.cached(key=lambda x: f"{tenant.get()}:{x}")
    def load(x: int) -> str:
        return tenant.get()

    assert (load(1), load(1)) == ("a", "a")
    tenant.set("b")
    assert (load(1), load(1)) == ("b", "b")


@pytest.mark.parametrize("template", [None, "x:{x}:{settings.language}"])
def test_a_default_that_changes_changes_the_key(cache: Cache, template: str | None) -> None:
    """What a default says now is part of the key, not what it said at the first call."""

    class Settings:
        language = "en"

        def __cache_key__(self) -> str:
            return self.language

    current = Settings()

    @cache.cached(template)
    def load(x: int, settings: Settings = current) -> str:
        return settings.language

    assert (load(1), load(1)) == ("en", "en")
    current.language = "fr"
    assert (load(1), load(1)) == ("fr", "fr")


@pytest.mark.parametrize(
    ("template", "ignore"), [(None, ("client",)), ("x:{x}", ()), ("x:{x}:{language}:{size}", ())], ids=repr
)
def test_a_default_that_can_not_change_the_key_costs_nothing(cache: Cache, template: Any, ignore: Any) -> None:
    """A hit of plain arguments asks neither for the key nor for a default."""

    @cache.cached(template, ignore=ignore)
    def load(x: int, client: object = object(), language: str = "en", size: float | None = None) -> str:
        return "loaded"

    if template is not None and "size" in template:
        with pytest.raises(TypeError, match="argument 'size'"):
            load(1)
        load = cache.cached(template.replace("size", "size!s"))(load.__wrapped__)
    load(1)
    load(1)  # the first hit formats the key, and remembers where it led
    load.__dict__["_maker"] = None
    assert load(1) == "loaded"


def test_the_short_way_is_as_exact_as_the_key(cache: Cache) -> None:
    """In a template 42 and "42" are one key by design; True, floats and subclasses are not let by."""

    class Text(str):
        pass

    calls = Calls()
    load = cache.cached("x:{x}")(calls.sync())
    assert load(42) is load("42") is load(42)
    for value in (True, 42.0, Text("42"), None):
        with pytest.raises(TypeError, match="argument 'x'"):
            load(value)
    assert len(calls) == 1


_VALUES = st.sampled_from([0, 1, 2**40, -1, "", "0", "1", ":", None, b"1", True, 0.0, -0.0, 1.0, (1,), ("1", 2)])


@given(calls=st.lists(st.tuples(st.lists(_VALUES, max_size=3), st.dictionaries(st.sampled_from("abc"), _VALUES))))
def test_an_alias_leads_to_the_key_that_formatting_gives(calls: list[tuple[list[Any], dict[str, Any]]]) -> None:
    """Whatever was called before, and however often, a call is answered from its own key or refused as it is."""
    with Cache() as cache:

        def function(a: Any, b: Any = None, *, c: Any = 1) -> str:
            return load.key(a, b, c=c)

        load = cache.cached(function)
        for args, kwargs in calls * 3:
            try:
                expected = load.key(*args, **kwargs)
            except TypeError as error:
                with pytest.raises(TypeError, match=re.escape(str(error))):
                    load(*args, **kwargs)
            else:
                assert load(*args, **kwargs) == expected


def test_a_method_whose_key_has_no_self_in_it_is_answered_for_every_instance(cache: Cache) -> None:
    """The instance is passed over, whatever its class makes of equality; a bound method and a class's are the same."""

    class Repo:
        __eq__ = __hash__ = lambda *_: 1 // 0  # type: ignore[assignment]

        @cache.cached("repo:{item}")
        def get(self, item: int) -> object:
            return object()

    first = Repo().get(1)
    assert all(Repo().get(1) is first for _ in range(3))
    assert Repo.get(Repo(), 1) is Repo().get(item=1) is first
    Repo().get.invalidate(1)
    assert Repo().get(1) is not first


def test_long_keys_take_the_short_way_too() -> None:
    """A key that has another name in tier 2 is still one call, and can be invalidated."""
    with MemoryCache() as cache:
        calls = Calls()
        load = cache.cached("#x:{x}")(calls.sync())
        for x in ("a" * 1000, "#"):
            first = load(x)
            assert load(x) is first
            maker, load._maker = load._maker, None
            assert load(x) is first
            load._maker = maker
            load.invalidate(x)
            assert load(x) is not first


def test_many_different_calls_do_not_pile_up(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of argument lists is bounded, and forgetting it changes no answer."""
    monkeypatch.setattr("tiercache.decorator.ALIASES", 8)

    @cache.cached("x:{x}")
    def load(x: str) -> int:
        return len(x)

    arguments = [str(x) * 3 for x in range(100, 200)]
    before = sys.getrefcount(arguments[0])
    for _ in range(2):
        assert [load(x) for x in arguments] == [9] * 100
    assert cache.stats()["loads"] == 100
    gc.collect()
    after = sys.getrefcount(arguments[0])
    assert after == before


# Awaitables.


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("value", [[1], (), (1, 2), None, ValueError("v"), StopIteration(3)], ids=repr)
def test_what_a_call_returns_is_a_full_awaitable(cache: Cache, value: Any, debug: bool) -> None:
    """On a miss and on a hit it can be awaited, gathered, shielded, timed and made a task, whatever the value is."""

    @cache.cached("x:{x}")
    async def load(x: int) -> Any:
        return value

    async def each(x: int) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load(x)), asyncio.create_task(load(x), name="mine")]
        return [
            await load(x),
            await asyncio.wait_for(load(x), 5),
            await asyncio.shield(load(x)),
            await asyncio.ensure_future(load(x)),
            *await asyncio.gather(load(x), load(x)),
            *[task.result() for task in tasks],
        ]

    async def main() -> list[Any]:
        return [*await each(1), *await each(1), await asyncio.wait_for(load(2), 5), *await asyncio.gather(load(3))]

    assert all(answer is value for answer in asyncio.run(main(), debug=debug))
    assert asyncio.run(load(1)) is value


def test_a_cancelled_task_of_a_hit_is_cancelled(cache: Cache) -> None:
    """A task that has not begun can be cancelled though its value is ready."""
    load = cache.cached("x:{x}")(Calls().coroutine())

    async def main() -> None:
        await load(1)
        task = asyncio.create_task(load(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        awaitable = load(1)
        awaitable.close()

    asyncio.run(main())


def test_a_call_that_is_not_awaited_is_told_by_name(cache: Cache) -> None:
    """Python's warning names the function, not our inside."""
    load = cache.cached("x:{x}")(Calls().coroutine())
    with pytest.warns(RuntimeWarning, match=r"Calls\.coroutine\.<locals>\.load' was never awaited"):
        load(1)


def test_a_task_is_named_by_its_function(cache: Cache) -> None:
    """Who lists the running tasks sees what they load."""
    load = cache.cached("x:{x}")(Calls().coroutine())

    async def main() -> str:
        task = asyncio.create_task(load(1))
        shown = repr(task)
        await task
        return shown

    assert "Calls.coroutine.<locals>.load()" in asyncio.run(main())


# Threads and loops.


def test_threads_and_loops_share_one_load(cache: Cache) -> None:
    """Sync and async functions with one key, called from many threads and loops at once, load once."""
    runs: list[str] = []
    start = threading.Barrier(12)

    @cache.cached(key=lambda x: f"shared:{x}")
    def load(x: int) -> list[int]:
        runs.append("sync")
        return [x]

    @cache.cached(key=lambda x: f"shared:{x}")
    async def aload(x: int) -> list[int]:
        runs.append("async")
        return [x]

    def thread() -> list[Any]:
        start.wait()
        return [load(x) for x in range(20)]

    def loop() -> list[Any]:
        async def main() -> list[Any]:
            return await asyncio.gather(*[aload(x) for x in range(20)])

        start.wait()
        return asyncio.run(main())

    with ThreadPoolExecutor(12) as pool:
        jobs = [pool.submit(job) for job in [thread, loop] * 6]
        answers = [job.result(30) for job in jobs]
    assert len(runs) == 20
    for answer in answers:
        assert all(mine is first for mine, first in zip(answer, answers[0], strict=True))


def test_a_function_can_be_used_by_loop_after_loop(cache: Cache) -> None:
    """asyncio.run twice with one function is no harm; what one loop loaded another gets."""
    calls = Calls()
    load = cache.cached("x:{x}")(calls.coroutine())
    assert asyncio.run(load(1)) is asyncio.run(load(1))
    asyncio.run(load.invalidate(1))
    asyncio.run(load(1))
    assert len(calls) == 2


# Loaders given to the cache itself.


def test_a_hidden_coroutine_function_is_awaited(cache: Cache) -> None:
    """aget_or_load takes coroutine functions in a partial, an object or a lambda, and plain callables."""

    async def main() -> None:
        hidden = [partial(fetch, 1), partial(Fetcher(), 1), partial(Fetcher().method, 1), lambda: fetch(1)]
        loaders: list[Callable[[], Any]] = [*hidden, lambda: [1, 0]]
        for at, loader in enumerate(loaders):
            for _ in range(2):
                assert await cache.aget_or_load(f"k{at}", loader) == [1, 0]
            assert await cache.arefresh(f"k{at}", loader) == [1, 0]

    asyncio.run(main())


@pytest.mark.parametrize("loader", [partial(fetch, 1), partial(Fetcher(), 1), lambda: fetch(1)])
def test_an_async_loader_in_a_sync_call_is_a_type_error(cache: Cache, loader: Any) -> None:
    """It says what to do, and leaves no coroutine that nobody awaits."""
    for call in (cache.get_or_load, cache.refresh):
        with pytest.raises(TypeError, match="async"):
            call("k", loader)


def test_a_sync_function_that_returns_a_coroutine_is_a_type_error(cache: Cache) -> None:
    """A sync wrapper around a coroutine function can't be seen through, but is told at the call."""
    load = cache.cached("x:{x}")(lambda x: fetch(x))
    with pytest.raises(TypeError, match=r"is async: .*decorate an async function"):
        load(1)


@pytest.mark.parametrize("loader", [42, None, "loader", [1]], ids=repr)
def test_a_loader_that_cannot_be_called_is_a_type_error(cache: Cache, loader: Any) -> None:
    """A value in the loader's place is told, in both colours."""
    for name in ("get_or_load", "refresh"):
        with pytest.raises(TypeError, match=f"loader must be a callable .*{type(loader).__name__}"):
            getattr(cache, name)("k", loader)
        with pytest.raises(TypeError, match="loader must be a callable"):
            Async.end(getattr(cache, "a" + name)("k", loader))


def test_stop_iteration_survives_a_sync_call(cache: Cache) -> None:
    """A loader's StopIteration is an error like others, though coroutines lie between."""

    def load(x: int = 0) -> Any:
        raise StopIteration("empty")

    with pytest.raises(StopIteration, match="empty"):
        cache.get_or_load("k", load)
    with pytest.raises(StopIteration, match="empty"):
        cache.cached("x:{x}")(load)(1)


def test_stop_iteration_in_an_async_call_ends_as_python_has_it(cache: Cache) -> None:
    """A coroutine can't raise StopIteration: the caller gets the RuntimeError that Python makes of it."""
    load = cache.cached("x:{x}")(Calls(StopIteration("empty")).coroutine())
    for awaitable in (load(1), cache.aget_or_load("k", partial(next, iter(())))):
        with pytest.raises(RuntimeError, match="StopIteration"):
            Async.end(awaitable)
