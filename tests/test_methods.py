"""Cached methods: instance, class and static, and what a bound one is and does."""

import abc
import asyncio
import copy
import enum
import functools
import inspect
import pickle
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from tiercache import Cache

GLOBAL = Cache()


class Importable:
    """A class that pickle finds."""

    def __init__(self, id: int) -> None:
        self.id = id

    def __cache_key__(self) -> int:
        return self.id

    @GLOBAL.cached
    def load(self, x: int) -> tuple[int, int]:
        return self.id, x


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        yield cache


@pytest.fixture
def repository(cache: Cache) -> Any:
    """A class with a cached method of every kind; `runs` notes what was loaded."""

    class Repository:
        runs: list[Any] = []  # noqa: RUF012  # one list for all

        def __init__(self, id: Any) -> None:
            self.id = id

        def __cache_key__(self) -> Any:
            return self.id

        @cache.cached
        def get(self, x: int, *, y: int = 0) -> list[Any]:
            """Gets x."""
            self.runs.append(("get", self.id, x, y))
            return [self.id, x, y]

        @cache.cached
        async def aget(self, x: int, *, y: int = 0) -> list[Any]:
            """Awaits x."""
            self.runs.append(("aget", self.id, x, y))
            return [self.id, x, y]

        @classmethod
        @cache.cached
        def make(cls, x: int) -> list[Any]:
            """Makes x."""
            cls.runs.append(("make", cls.__name__, x))
            return [cls.__name__, x]

        @classmethod
        @cache.cached
        async def amake(cls, x: int) -> list[Any]:
            cls.runs.append(("amake", cls.__name__, x))
            return [cls.__name__, x]

        @staticmethod
        @cache.cached
        def find(x: int) -> list[Any]:
            """Finds x."""
            Repository.runs.append(("find", x))
            return [x]

    return Repository


def awaited(awaitable: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


def class_error(make: Callable[[], object]) -> TypeError:
    """The TypeError of a class statement (Python 3.11 wraps what `__set_name__` raises in a RuntimeError)."""
    with pytest.raises((TypeError, RuntimeError)) as raised:
        make()
    error = raised.value if isinstance(raised.value, TypeError) else raised.value.__cause__
    assert isinstance(error, TypeError)
    return error


# Instances.


def test_a_method_is_cached_for_its_instance(repository: Any) -> None:
    """Calls, key, invalidate and refresh know their instance."""
    repo = repository(7)
    first = repo.get(42)
    assert first is repo.get(42) is repo.get(x=42, y=0)
    assert repo.get.key(42) == repository.get.key(repo, 42)
    repo.get.invalidate(42)
    assert repo.get(42) is not first
    refreshed = repo.get.refresh(42)
    assert repo.get(42) is refreshed == [7, 42, 0]
    assert repo.get.__wrapped__(42) == [7, 42, 0]
    assert repository.runs == [("get", 7, 42, 0)] * 4


def test_an_async_method_is_cached_for_its_instance(repository: Any) -> None:
    """The same, awaited: in a call, a task and a gathering, on a miss and on a hit."""
    repo = repository(7)

    async def main() -> None:
        first = await repo.aget(42)
        assert await asyncio.create_task(repo.aget(42)) is first
        assert await asyncio.gather(repo.aget(42), asyncio.wait_for(repo.aget(42), 5)) == [first, first]
        await repo.aget.invalidate(42)
        assert await repo.aget(42) is not first
        refreshed = await repo.aget.refresh(42)
        assert await repo.aget(42) is refreshed
        assert await repo.aget.__wrapped__(42) == refreshed

    asyncio.run(main())
    assert repository.runs == [("aget", 7, 42, 0)] * 4


def test_instances_with_different_keys_never_meet(repository: Any) -> None:
    """An instance stands in the key by its `__cache_key__`: equal ones share, others don't."""
    one, two, text = repository(1), repository(2), repository("1")
    assert one.get(5) != two.get(5) != text.get(5)
    assert repository(1).get(5) is one.get(5)
    one.get.invalidate(5)
    two.get(5)
    text.get(5)
    assert len(repository.runs) == 3
    assert len({repo.get.key(5) for repo in (one, two, text, repository(1))}) == 3


def test_a_cache_key_that_changes_leads_to_another_entry(repository: Any) -> None:
    """The instance is asked at every call."""
    repo = repository(1)
    assert repo.get(5) == [1, 5, 0]
    repo.id = 2
    assert repo.get(5) == [2, 5, 0]


def test_a_method_looks_like_a_bound_method(repository: Any) -> None:
    """Signature, name, documentation and colour are those of the bound function."""
    repo = repository(1)
    assert type(repo.get).__annotations__ is not None  # which makes the class have some, on 3.11 an empty dict
    for bound, plain in ((repo.get, repository.get.__wrapped__), (repo.aget, repository.aget.__wrapped__)):
        method = plain.__get__(repo)
        assert inspect.signature(bound) == inspect.signature(method)
        for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__self__"):
            assert getattr(bound, name) == getattr(method, name)
        assert bound.__wrapped__ == method
        assert inspect.iscoroutinefunction(bound) is inspect.iscoroutinefunction(method)
        assert asyncio.iscoroutinefunction(bound) is asyncio.iscoroutinefunction(method)
        assert inspect.iscoroutinefunction(bound.refresh) is inspect.iscoroutinefunction(method)
    assert inspect.iscoroutinefunction(repo.aget)
    assert not hasattr(repo.get, "no_such_attribute")


def test_bound_methods_compare_like_bound_methods(repository: Any) -> None:
    """Equal for one instance and one function, whatever the instances' own equality says."""
    repository.__eq__ = lambda self, other: True
    one, other = repository(1), repository(1)
    assert one.get == one.get
    assert hash(one.get) == hash(one.get)
    assert one.get != other.get
    assert one.get != one.aget
    assert one.get != repository.get
    assert weakref.WeakMethod(one.get)() == one.get


def test_a_method_can_be_stored_before_it_is_called(repository: Any) -> None:
    """A bound method keeps its instance, as a callback must."""
    load = repository(3).get
    assert load(1) == functools.partial(load, 1)() == [3, 1, 0]


def test_a_bound_method_is_pickled_with_its_instance() -> None:
    """It goes to another process as (instance, name)."""
    load = pickle.loads(pickle.dumps(Importable(5).load))
    assert load(1) == (5, 1)
    assert copy.deepcopy(Importable(6).load)(1) == (6, 1)
    assert pickle.loads(pickle.dumps(Importable.load)) is Importable.load


def test_wrong_arguments_of_a_method_are_a_type_error(repository: Any) -> None:
    """The instance is filled in once, and only there."""
    repo = repository(1)
    for call in (repo.get, repo.get.key, repo.get.invalidate, repo.get.refresh):
        with pytest.raises(TypeError):
            call()
        with pytest.raises(TypeError):
            call(1, 2)
        with pytest.raises(TypeError, match="self"):
            call(1, self=repo)
    assert repository.runs == []


def test_template_may_name_self(cache: Cache) -> None:
    """In a template the instance is a name like others; no `__cache_key__` is asked for."""

    class Repository:
        def __init__(self, id: int) -> None:
            self.id = id

        @cache.cached("repository:{self.id}:{x}")
        def get(self, x: int) -> list[int]:
            return [self.id, x]

        @cache.cached("repository:{x}", version="shared")
        def shared(self, x: int) -> list[int]:
            return [x]

    one, two = Repository(1), Repository(2)
    assert one.get.key(5) == "repository:1:5"
    assert (one.get(5), two.get(5)) == ([1, 5], [2, 5])
    assert one.shared(5) is two.shared(5)
    one.get.invalidate(5)
    assert cache.get("repository:1:5") is None
    assert cache.get("repository:2:5") == [2, 5]


def test_self_can_be_ignored_or_given_to_key(cache: Cache) -> None:
    """Both ways out of an instance without a key work."""

    class Repository:
        @cache.cached(ignore=("self",))
        def ignoring(self, x: int) -> list[int]:
            return [x]

        @cache.cached(key=lambda self, x: f"{type(self).__name__}:{x}")
        def keyed(self, x: int) -> list[int]:
            return [x]

    assert Repository().ignoring(1) is Repository().ignoring(1)
    assert Repository().keyed(1) is Repository().keyed(1)
    assert Repository().keyed.key(1) == "Repository:1"


# Class creation.


def test_a_method_without_cache_key_is_a_type_error_at_class_creation(cache: Cache) -> None:
    """The error names class, method and the ways out, before there is any instance."""

    def make() -> object:
        class Repository:
            @cache.cached
            def get(this, x: int) -> int: ...

        return Repository

    message = str(class_error(make))
    assert "Repository.get: instances have no stable key" in message
    for way_out in ("__cache_key__", "template", "key=", "ignore=('this',)"):
        assert way_out in message


def test_an_async_method_without_cache_key_is_a_type_error_at_class_creation(cache: Cache) -> None:
    """Both colours are looked at."""

    def make() -> object:
        class Repository:
            @cache.cached
            async def get(self) -> int: ...

        return Repository

    assert "Repository.get" in str(class_error(make))


def test_cache_key_may_be_inherited_or_defined_below(cache: Cache) -> None:
    """What counts is the class as a whole."""

    class Keyed:
        def __cache_key__(self) -> str:
            return "k"

    class Repository(Keyed):
        @cache.cached
        def get(self, x: int) -> int:
            return x

    class Below:
        @cache.cached
        def get(self, x: int) -> int:
            return x

        def __cache_key__(self) -> str:
            return "k"

    assert Repository().get(1) == Below().get(1) == 1
    assert Repository().get.key(1) != Below().get.key(1)


def test_a_base_class_must_have_the_cache_key_itself(cache: Cache) -> None:
    """A base whose subclasses alone have `__cache_key__` is told so; an abstract one is enough."""

    def make() -> object:
        class Base:
            @cache.cached
            def get(self, x: int) -> int: ...

        return Base

    class_error(make)

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def __cache_key__(self) -> object: ...

        @cache.cached
        def get(self, x: int) -> int:
            return x

    class Concrete(Abstract):
        def __cache_key__(self) -> object:
            return 1

    assert Concrete().get(2) == 2


def test_subclasses_inherit_and_have_entries_of_their_own(repository: Any) -> None:
    """A subclass's instance is another class's: it shares no entry with its base's."""

    class Special(repository):  # type: ignore[misc]
        pass

    base, special = repository(1), Special(1)
    assert base.get(5) is not special.get(5)
    special.get.invalidate(5)
    special.get(5)
    base.get(5)
    assert len(repository.runs) == 3


def test_an_overriding_method_can_use_its_base(cache: Cache, repository: Any) -> None:
    """super() binds as it does for functions; each level has entries of its own."""

    class Special(repository):  # type: ignore[misc]
        @cache.cached
        def get(self, x: int) -> list[Any]:
            return ["special", *super().get(x)]

        @classmethod
        @cache.cached
        def make(cls, x: int) -> list[Any]:
            return ["special", *super().make(x)]

        def drop(self, x: int) -> None:
            super().get.invalidate(x)

    special = Special(1)
    assert special.get(5) == ["special", 1, 5, 0]
    assert Special.make(5) == ["special", "Special", 5]
    special.get.invalidate(5)
    special.get(5)
    assert repository.runs == [("get", 1, 5, 0), ("make", "Special", 5)]
    special.drop(5)
    special.get.invalidate(5)
    special.get(5)
    assert repository.runs[2:] == [("get", 1, 5, 0)]


def test_abstract_methods_stay_abstract(cache: Cache) -> None:
    """In either order with abstractmethod, the class can't be instantiated."""

    class Above(abc.ABC):
        @abc.abstractmethod
        @cache.cached(ignore=("self",))
        def get(self) -> int: ...

    class Below(abc.ABC):
        @cache.cached(ignore=("self",))
        @abc.abstractmethod
        def get(self) -> int: ...

    class Class(abc.ABC):
        @classmethod
        @cache.cached
        @abc.abstractmethod
        def get(cls) -> int: ...

    for base in (Above, Below, Class):
        with pytest.raises(TypeError, match="abstract"):
            base()


def test_classes_of_every_kind_may_have_cached_methods(cache: Cache) -> None:
    """Slots, frozen and slotted dataclasses (made twice), named tuples and enums."""

    class Slots:
        __slots__ = ("id",)

        def __init__(self, id: int) -> None:
            self.id = id

        def __cache_key__(self) -> int:
            return self.id

        @cache.cached
        def get(self, x: int) -> Any:
            return self.id, x

        @classmethod
        @cache.cached
        def make(cls, x: int) -> Any:
            return cls.__name__, x

    @dataclass(frozen=True, slots=True)
    class Data:
        id: int

        def __cache_key__(self) -> int:
            return self.id

        @cache.cached
        def get(self, x: int) -> Any:
            return self.id, x

        @classmethod
        @cache.cached
        def make(cls, x: int) -> Any:
            return cls.__name__, x

    class Pair(NamedTuple):
        id: int

        @cache.cached("pair:{self.id}:{x}")
        def get(self, x: int) -> Any:
            return self.id, x

        @classmethod
        @cache.cached
        def make(cls, x: int) -> Any:
            return cls.__name__, x

    class Colour(enum.Enum):
        RED = 1

        @cache.cached
        def get(self, x: int) -> Any:
            return self.value, x

        @classmethod
        @cache.cached
        def make(cls, x: int) -> Any:
            return cls.__name__, x

    assert list(Colour) == [Colour.RED]
    for instance in (Slots(1), Data(1), Pair(1), Colour.RED):
        bound: Any = instance.get
        assert bound(5) is bound(5)
        bound.invalidate(5)
        assert bound(5) == (1, 5)
        made: Any = type(instance).make
        assert made(5) is made(5) == (type(instance).__name__, 5)
        made.invalidate(5)
        assert cache.get(made.key(5)) is None
        assert vars(type(instance)).keys().isdisjoint({"__tiercache_classmethods__"})


def test_a_cached_function_below_property_is_cached(cache: Cache) -> None:
    """property and cached_property call it with the instance."""
    runs = []

    class Repository:
        @property
        @cache.cached("total")
        def total(self) -> list[int]:
            runs.append(1)
            return [1]

        @functools.cached_property
        @cache.cached("once")
        def once(self) -> list[int]:
            runs.append(2)
            return [2]

    assert Repository().total is Repository().total
    assert Repository().once is Repository().once
    assert runs == [1, 2]


def test_a_function_can_be_decorated_outside_the_class(cache: Cache) -> None:
    """An attribute that is set later binds as well."""

    class Repository:
        def __cache_key__(self) -> int:
            return 1

    def get(self: Repository, x: int) -> list[int]:
        return [x]

    Repository.get = cache.cached(get)  # type: ignore[attr-defined]
    repo: Any = Repository()
    assert repo.get(1) is repo.get(1)
    repo.get.invalidate(1)
    assert cache.get(repo.get.key(1)) is None


def test_methods_of_local_classes_made_by_one_function_are_one_by_name(cache: Cache) -> None:
    """A class made twice keeps its templates."""

    def make() -> Any:
        class Repository:
            @cache.cached("repository:{x}")
            def get(self, x: int) -> int:
                return x

        return Repository

    assert make()().get(1) == make()().get(1) == 1


def test_two_methods_can_not_share_a_template(cache: Cache) -> None:
    """Two methods of one name in two classes are two functions."""

    class One:
        @cache.cached("one:{x}")
        def get(self, x: int) -> int: ...

    with pytest.raises(ValueError, match=r"Two\.get belongs to .*One\.get"):

        class Two:
            @cache.cached("one:{x}")
            def get(self, x: int) -> int: ...


# Classmethods and staticmethods.


def test_a_classmethod_is_cached_for_its_class(repository: Any) -> None:
    """Below @classmethod, calls, key, invalidate and refresh know their class; instances reach it too."""
    first = repository.make(42)
    assert repository.make(42) is repository(1).make(42) is first == ["Repository", 42]
    repository.make.invalidate(42)
    assert repository.make(42) is not first
    refreshed = repository.make.refresh(42)
    assert repository.make(42) is refreshed
    assert repository.make.__wrapped__(42) == refreshed
    repository(1).make.invalidate(42)
    assert repository.make(42) is not refreshed
    assert repository.make.key(42) == repository(1).make.key(x=42)
    assert inspect.signature(repository.make) == inspect.signature(repository.make.__wrapped__)
    assert repository.make.__doc__ == "Makes x."
    assert repository.make == repository.make
    assert len(repository.runs) == 5


def test_an_async_classmethod_is_cached_for_its_class(repository: Any) -> None:
    """The same, awaited."""
    assert inspect.iscoroutinefunction(repository.amake)
    assert asyncio.iscoroutinefunction(repository(1).amake)

    async def main() -> None:
        first = await repository.amake(42)
        assert await repository(1).amake(42) is first
        await repository.amake.invalidate(42)
        assert await asyncio.create_task(repository.amake(42)) is not first
        assert await repository.amake.refresh(42) is await repository.amake(42)

    asyncio.run(main())
    assert len(repository.runs) == 3


def test_a_classmethod_is_inherited_for_the_subclass(repository: Any) -> None:
    """A subclass has entries of its own, and its invalidate is its own."""

    class Special(repository):  # type: ignore[misc]
        pass

    assert (repository.make(1), Special.make(1)) == (["Repository", 1], ["Special", 1])
    Special.make.invalidate(1)
    Special.make(1)
    Special(1).make(1)
    repository.make(1)
    assert repository.runs == [("make", "Repository", 1), ("make", "Special", 1), ("make", "Special", 1)]


def test_a_classmethod_of_a_nested_class_or_through_a_decorator_of_ones_own(cache: Cache) -> None:
    """Wherever the class body stands, and whoever calls cached there."""

    def mine(function: Any) -> Any:
        return cache.cached(ttl=60)(function)

    class Outer:
        class Inner:
            @classmethod
            @mine
            def make(cls, x: int) -> list[Any]:
                return [cls.__name__, x]

    made: Any = Outer.Inner.make
    assert made(1) is made(1)
    made.invalidate(1)
    assert cache.get(made.key(1)) is None
    assert made.refresh(1) == ["Inner", 1]


def test_a_classmethod_with_a_template(cache: Cache) -> None:
    """cls is a name like others there."""

    class Model:
        table = "models"

        @classmethod
        @cache.cached("model:{cls.table}:{x}")
        def load(cls, x: int) -> str:
            return f"{cls.table} {x}"

    class Other(Model):
        table = "others"

    assert (Model.load(1), Other.load(1)) == ("models 1", "others 1")
    assert Other.load.key(1) == "model:others:1"


def test_a_plain_classmethod_beside_a_cached_one_is_left_alone(cache: Cache) -> None:
    """Only what is cached is bound in our way."""

    class Repository:
        @classmethod
        def plain(cls) -> str:
            return cls.__name__

        @classmethod
        @cache.cached
        def make(cls) -> str:
            return cls.__name__

    assert inspect.ismethod(Repository.plain)
    assert Repository.plain() == Repository.make() == "Repository"
    assert isinstance(vars(Repository)["make"], classmethod)


def test_a_staticmethod_is_a_cached_function(repository: Any) -> None:
    """Below @staticmethod it is the function that was decorated, from the class and from instances."""
    first = repository.find(42)
    assert repository.find(42) is repository(1).find(42) is first
    repository.find.invalidate(42)
    assert repository(1).find(42) is not first
    assert repository.find.key(42) == repository(1).find.key(42)
    assert repository.find.refresh(42) == [42]
    assert repository.find.__doc__ == "Finds x."
    assert repository.runs == [("find", 42)] * 3
