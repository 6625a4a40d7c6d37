"""The codec: exact round trips, registered classes, paths in errors, and hostile bytes."""

import dataclasses
import datetime as dt
import enum
import math
import struct
import sys
import threading
import tracemalloc
import zlib
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Callable
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiercache.codec import Codec, MsgpackCodec
from tiercache.compression import compress, decompress
from tiercache.errors import CodecError, PolicyError

BERLIN = ZoneInfo("Europe/Berlin")
MIB = 1 << 20


@dataclass
class Money:
    amount: Decimal
    currency: str = "EUR"


@dataclass(frozen=True)
class Item:
    name: str
    prices: tuple[Any, ...]
    tags: frozenset[Any] = frozenset()


class Colour(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point:
    def __init__(self, x: object, y: object) -> None:
        self.x = x
        self.y = y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def codec() -> Codec:
    return MsgpackCodec()


def open_shop() -> MsgpackCodec:
    codec = MsgpackCodec()
    for cls in (Money, Item, Colour, Level, Access):
        codec.register(cls)
    codec.register(Point, to=lambda point: (point.x, point.y), from_=lambda pair: Point(*pair))
    return codec


@pytest.fixture
def shop() -> MsgpackCodec:
    return open_shop()


def exact(value: Any) -> Any:
    """A hashable picture of a value with every type, bit, sign, zone and order in it."""
    kind = type(value)
    if kind is float:
        return kind, struct.pack(">d", value)
    if kind in (list, tuple):
        return kind, tuple(map(exact, value))
    if kind is dict:
        return kind, tuple((exact(key), exact(item)) for key, item in value.items())
    if kind in (set, frozenset):
        return kind, frozenset(Counter(map(exact, value)).items())
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind in (dt.datetime, dt.time):
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, exact(value.tzinfo)
    if kind is dt.timezone:
        return kind, value.__getinitargs__()
    if dataclasses.is_dataclass(kind):
        return kind, tuple(exact(getattr(value, each.name)) for each in dataclasses.fields(kind))
    if kind is Point:
        return kind, exact(value.x), exact(value.y)
    return kind, value


def fails(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(CodecError) as caught:
        call(*args)
    return str(caught.value)


def peak(call: Callable[..., object], *args: object) -> int:
    """The most memory that Python held at once during a call that fails with CodecError."""
    tracemalloc.start()
    try:
        fails(call, *args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


fixed_zones = st.builds(
    dt.timezone,
    st.timedeltas(dt.timedelta(hours=-24, microseconds=1), dt.timedelta(hours=24, microseconds=-1)),
) | st.builds(dt.timezone, st.just(dt.timedelta(hours=1)), st.text())
zones = st.none() | fixed_zones | st.sampled_from([BERLIN, ZoneInfo("Asia/Kathmandu"), ZoneInfo("UTC")])
folds = st.sampled_from([0, 1])
text = st.text(st.characters(exclude_categories=["Cs"]))
hashable_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | text
    | st.binary()
    | st.builds(lambda moment, fold: moment.replace(fold=fold), st.datetimes(timezones=zones), folds)
    | st.dates()
    | st.builds(lambda time, zone, fold: time.replace(tzinfo=zone, fold=fold), st.times(), zones, folds)
    | st.timedeltas()
    | st.decimals().filter(lambda number: not number.is_snan())
    | st.uuids()
)
hashable = st.recursive(hashable_scalars, lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner), max_leaves=8)
values = st.recursive(
    hashable | st.just(Decimal("sNaN123")),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(hashable)
        | st.frozensets(hashable)
        | st.dictionaries(hashable, inner)
    ),
    max_leaves=20,
)
objects = st.recursive(
    values | st.sampled_from([*Colour, *Level, Access.READ, Access.READ | Access.WRITE, Access(0)]),
    lambda inner: (
        st.builds(Money, inner, inner)
        | st.builds(Item, text, st.lists(inner).map(tuple), st.frozensets(hashable))
        | st.builds(Point, inner, inner)
        | st.lists(inner)
        | st.dictionaries(text, inner)
    ),
    max_leaves=10,
)


class TestRoundTrip:
    @given(values)
    def test_value_comes_back_equal_with_the_same_types(self, value: object) -> None:
        """Any nesting of the supported types comes back bit by bit."""
        codec = MsgpackCodec()
        assert exact(codec.decode(codec.encode(value))) == exact(value)

    @given(objects)
    def test_registered_objects_come_back_wherever_they_are_nested(self, value: object) -> None:
        """Dataclasses, enums, flags and converted classes nest in containers and in each other."""
        codec = open_shop()
        assert exact(codec.decode(codec.encode(value))) == exact(value)

    @pytest.mark.parametrize("bits", [7, 8, 31, 32, 62, 63, 64, 65, 71, 72, 127, 128, 100_000])
    def test_int_of_any_size_is_exact_at_every_boundary(self, codec: Codec, bits: int) -> None:
        """Ints around each power of two keep their value and sign, with and without the extension."""
        for value in (2**bits - 1, 2**bits, 2**bits + 1):
            assert codec.decode(codec.encode([value, -value])) == [value, -value]

    @pytest.mark.parametrize("number", ["NaN", "-NaN", "sNaN", "NaN42", "-0", "0E-10", "1E+999999", "-Infinity"])
    def test_decimal_keeps_sign_exponent_and_payload(self, codec: Codec, number: str) -> None:
        """Two decimals that compare equal but are written differently stay different."""
        value = codec.decode(codec.encode(Decimal(number)))
        assert isinstance(value, Decimal)
        assert value.as_tuple() == Decimal(number).as_tuple()

    def test_bool_and_int_and_float_stay_apart(self, codec: Codec) -> None:
        """True, 1 and 1.0 compare equal and come back as three types."""
        assert exact(codec.decode(codec.encode([True, 1, 1.0]))) == exact([True, 1, 1.0])

    def test_both_hours_of_a_fold_come_back(self, codec: Codec) -> None:
        """The hour that a zone repeats in autumn keeps its fold, and the zone is the same object."""
        first = dt.datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN)
        second = first.replace(fold=1)
        moments: Any = codec.decode(codec.encode([first, second]))
        assert [each.utcoffset() for each in moments] == [first.utcoffset(), second.utcoffset()]
        assert all(each.tzinfo is BERLIN for each in moments)

    @given(st.datetimes(timezones=st.timezones()), folds)
    def test_every_zone_keeps_its_key(self, moment: dt.datetime, fold: int) -> None:
        """Any moment in any zone of the database has the same zone and offset afterwards."""
        codec = MsgpackCodec()
        again: Any = codec.decode(codec.encode(moment.replace(fold=fold)))
        assert exact(again) == exact(moment.replace(fold=fold))
        assert again.utcoffset() == moment.replace(fold=fold).utcoffset()

    def test_named_timezone_keeps_its_name(self, codec: Codec) -> None:
        """The name of a fixed offset survives, an empty one too, and UTC stays the singleton."""
        zones = [dt.timezone(dt.timedelta(0), ""), dt.timezone(dt.timedelta(hours=1), "CET"), dt.UTC]
        times = [dt.time(1, tzinfo=zone) for zone in zones]
        assert exact(codec.decode(codec.encode(times))) == exact(times)
        only: Any = codec.decode(codec.encode(times[-1]))
        assert only.tzinfo is dt.UTC

    def test_dict_keeps_typed_keys_in_order(self, codec: Codec) -> None:
        """Int, bytes, tuple, None, date and frozenset keys come back in their order."""
        value = {3: 1, b"3": 2, "3": 3, (3, (b"x",)): 4, None: 5, dt.date(2025, 1, 1): 6, frozenset({1}): 7}
        assert exact(codec.decode(codec.encode(value))) == exact(value)

    def test_plain_payload_is_plain_msgpack(self, codec: Codec) -> None:
        """Data that msgpack knows is written as any msgpack tool would write and read it."""
        value = {"a": [1, -2.5, None, True, "ü", b"\xff"], "b": {}}
        assert codec.encode(value) == msgpack.packb(value)

    def test_deepest_value_that_encodes_also_decodes(self, codec: Codec) -> None:
        """No depth is accepted on the way in and refused on the way out."""
        deepest = 0
        near = {*range(505, 515), *range(1018, 1030)}  # where the packer of msgpack 1.0, 1.2 ends
        for innermost in ([], 0, ()):
            for wrap in (lambda inner: [inner], lambda inner: (inner,), lambda inner: {0: inner}):
                value: object = innermost
                for depth in range(1, 1040):
                    value = wrap(value)
                    if depth not in near:
                        continue
                    try:
                        payload = codec.encode(value)
                    except CodecError:
                        break
                    assert codec.encode(codec.decode(payload)) == payload
                    deepest = max(depth, deepest)
        assert deepest >= 500


class TestRefusedValues:
    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ({"items": [0, 1, 2, Point(1, 2)]}, "$['items'][3] is a test_codec.Point"),
            ({"items": ({1: Money(Decimal(1))},)}, "$['items'][0][1] is a test_codec.Money"),
            ({(1, Colour.RED): 0}, "$.key((1, <Colour.RED: 1>))[1] is a test_codec.Colour"),
            ([{Colour.RED}], "$[0]{<Colour.RED: 1>} is a test_codec.Colour"),
            (Point, "$ is a type"),
        ],
    )
    def test_error_names_the_path_and_the_type(self, codec: Codec, value: object, told: str) -> None:
        """The first part without a stored form is named by its path from the top."""
        assert told in fails(codec.encode, value)

    def test_path_leads_into_registered_objects(self, shop: MsgpackCodec) -> None:
        """The path follows a dataclass's fields, and what to= made of an object."""
        value = [Item("a", (1, Point({"k": 1j}, 0)))]
        assert fails(shop.encode, value).startswith("$[0].prices[1].to()[0]['k'] is a complex")

    @pytest.mark.parametrize(
        ("value", "line"),
        [
            (Money(Decimal(1)), "add cache.register(test_codec.Money)"),
            (Colour.RED, "add cache.register(test_codec.Colour)"),
            (Point(1, 2), "add cache.register(test_codec.Point, to=..., from_=...)"),
            (1j, "add cache.register(complex, to=..., from_=...)"),
        ],
    )
    def test_error_says_which_line_to_add(self, codec: Codec, value: object, line: str) -> None:
        """A dataclass and an enum register by themselves, others with converters."""
        assert fails(codec.encode, value).endswith(line)

    @pytest.mark.parametrize(
        "value",
        [
            Level.LOW,
            OrderedDict(a=1),
            Counter("a"),
            namedtuple("Pair", "a b")(1, 2),
            type("Str", (str,), {})("a"),
            type("Int", (int,), {})(1),
            type("Float", (float,), {})(1),
            type("Bytes", (bytes,), {})(b"a"),
            type("List", (list,), {})([1]),
            type("Moment", (dt.datetime,), {})(2025, 1, 1),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_subclass_is_never_stored_as_its_base(self, codec: Codec, value: object) -> None:
        """A subclass would come back as another type, so it is refused until it is registered."""
        assert "which has no stored form: add cache.register(" in fails(codec.encode, {"a": [value]})

    @pytest.mark.parametrize(
        "value", [bytearray(b"a"), memoryview(b"a"), msgpack.ExtType(5, b"a"), msgpack.Timestamp(1)], ids=type
    )
    @pytest.mark.parametrize(
        ("wrap", "path"),
        [
            (lambda value: value, "$ "),
            (lambda value: [1, {"a": [value]}], "$[1]['a'][0] "),
            (lambda value: {"a": ([(value,)],)}, "$['a'][0][0][0] "),
            (lambda value: Money(amount=[value]), "$.amount[0] "),
            (lambda value: Point(1, Point(2, {"a": value})), "$.to()[1].to()[1]['a'] "),
        ],
        ids=["alone", "list", "tuple", "dataclass", "converted"],
    )
    def test_what_the_packer_would_mistake_is_refused(
        self, shop: MsgpackCodec, value: object, wrap: Callable[[object], object], path: str
    ) -> None:
        """msgpack takes these for bytes or extensions: an error at any depth, not another type back."""
        told = fails(shop.encode, wrap(value))
        assert told.startswith(path)
        assert told.endswith("which has no stored form: make it bytes")

    @pytest.mark.parametrize("key", [msgpack.ExtType(5, b"a"), msgpack.Timestamp(1), memoryview(b"a")], ids=type)
    def test_keys_the_packer_would_mistake_are_refused(self, codec: Codec, key: object) -> None:
        """The same holds for keys and elements, behind str keys too."""
        for value in ({"a": 1, key: 2}, {(key,): 1}, [{1, key}]):
            assert "which has no stored form: make it bytes" in fails(codec.encode, value)

    def test_container_in_itself_is_named(self, codec: Codec) -> None:
        """A cycle is an error that points at the reference that closes it."""
        value: list[Any] = [1]
        value.append({"again": (value,)})
        assert fails(codec.encode, value) == "$[1]['again'][0] refers back to a container that it is in"

    def test_object_in_itself_is_named(self, shop: MsgpackCodec) -> None:
        """A registered object that holds itself is an error too."""
        money = Money(Decimal(1))
        money.currency = [money]  # type: ignore[assignment]
        assert fails(shop.encode, money) == "$.currency[0] refers back to a container that it is in"

    @pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: Money(inner), lambda inner: (inner,)])
    def test_value_nested_too_deep_says_so(self, shop: MsgpackCodec, wrap: Callable[[object], object]) -> None:
        """Depth is a limit of its own with its own words, not a RecursionError."""
        value: object = 1
        for _ in range(5000):
            value = wrap(value)
        assert fails(shop.encode, value) == "$ is nested too deep"

    def test_lone_surrogate_is_refused(self, codec: Codec) -> None:
        """A str that is not Unicode text has no stored form, as value and as key."""
        assert fails(codec.encode, ["\ud800"]).startswith("$[0] is a str that can't be stored")
        assert fails(codec.encode, {"\ud800": 1}).startswith("$.key(")

    @pytest.mark.parametrize("zone", [type("Zone", (dt.tzinfo,), {})(), ZoneInfo.from_file])
    def test_zone_that_no_key_names_is_refused(self, codec: Codec, zone: Any, tmp_path: Any) -> None:
        """Foreign tzinfo classes and zones read from a file can't be found again elsewhere."""
        if callable(zone):
            # The smallest TZif file: version 1, one local time type (UTC).
            data = b"TZif" + bytes(16) + struct.pack(">6I", 0, 0, 0, 0, 1, 4) + struct.pack(">IBB", 0, 0, 0)
            file = tmp_path / "zone"
            file.write_bytes(data + b"UTC\0")
            with file.open("rb") as stream:
                zone = zone(stream)
        assert "its zone" in fails(codec.encode, [dt.datetime(2025, 1, 1, tzinfo=zone)])

    def test_key_that_cannot_be_printed_still_gives_a_path(self, codec: Codec) -> None:
        """Naming the path never raises what a key's own repr raises."""

        class Mute:
            def __repr__(self) -> str:
                raise RuntimeError

        assert fails(codec.encode, {10**6000: [1j]}).endswith(
            "[0] is a complex, which has no stored form: add cache.register(complex, to=..., from_=...)"
        )
        assert ".Mute, which has no stored form" in fails(codec.encode, {(Mute(),): 1})

    def test_encoder_is_usable_after_a_failure(self, codec: Codec) -> None:
        """A refused value leaves nothing behind in the next payload."""
        fails(codec.encode, [1, 2, 1j])
        assert codec.encode([1]) == b"\x91\x01"


class TestRegister:
    def test_dataclass_is_read_in_any_field_order(self, shop: MsgpackCodec) -> None:
        """Fields are stored by name: their order in the record means nothing."""
        other = MsgpackCodec()

        @dataclass
        class Swapped:
            currency: str
            amount: Decimal

        other.register(Swapped, name="test_codec.Money")
        assert shop.decode(other.encode(Swapped("USD", Decimal(3)))) == Money(Decimal(3), "USD")

    def test_missing_field_takes_its_default(self, shop: MsgpackCodec) -> None:
        """A record from before a field with a default was added is read."""
        assert shop.decode(stored("test_codec.Money", {"amount": Decimal(1)})) == Money(Decimal(1), "EUR")

    @pytest.mark.parametrize(
        "state", [{"currency": "EUR"}, {"amount": 1, "colour": 2}, {"amount": 1, 2: 3}, [1, "EUR"], None]
    )
    def test_fields_that_do_not_fit_are_an_error(self, shop: MsgpackCodec, state: object) -> None:
        """A missing field without default, an unknown one, or no fields at all can't be restored."""
        message = fails(shop.decode, stored("test_codec.Money", state))
        assert "a stored test_codec.Money can't be restored" in message

    def test_field_outside_init_is_made_anew(self, codec: Codec) -> None:
        """Fields with init=False are not stored; the class computes them again."""

        @dataclass
        class Box:
            side: int
            area: int = field(init=False)

            def __post_init__(self) -> None:
                self.area = self.side**2

        codec = MsgpackCodec()
        codec.register(Box)
        assert codec.decode(codec.encode(Box(3))) == Box(3)
        assert b"area" not in codec.encode(Box(3))

    def test_slots_and_keyword_only_dataclasses_register(self) -> None:
        """Frozen, slotted and keyword-only dataclasses are built through their own __init__."""

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Tight:
            a: int
            b: tuple[int, ...] = ()

        codec = MsgpackCodec()
        assert codec.register(Tight) is Tight
        assert codec.decode(codec.encode({Tight(a=1): Tight(a=2, b=(3,))})) == {Tight(a=1): Tight(a=2, b=(3,))}

    def test_dataclass_that_its_fields_cannot_build_is_refused_at_once(self) -> None:
        """An InitVar or an __init__ of its own shows at registration, not at the first read."""

        @dataclass
        class Hashed:
            digest: str
            secret: InitVar[str]

        with pytest.raises(TypeError, match=r"missing a required argument: 'secret'.*give to= and from_="):
            MsgpackCodec().register(Hashed)

    def test_plain_subclass_of_a_dataclass_needs_converters(self) -> None:
        """A subclass that is not a dataclass itself may hold more than the inherited fields."""
        with pytest.raises(TypeError, match="neither a dataclass nor an enum"):
            MsgpackCodec().register(type("Tip", (Money,), {}))

    def test_enum_is_stored_by_name(self, shop: MsgpackCodec) -> None:
        """An alias is its member; a name that is gone can't be restored."""
        assert shop.decode(shop.encode(Colour.CRIMSON)) is Colour.RED
        assert "KeyError" in fails(shop.decode, stored("test_codec.Colour", "BLUE"))

    def test_flags_combine(self, shop: MsgpackCodec) -> None:
        """A combination of flags, which has no member name, is stored by its value."""
        assert shop.decode(shop.encode(Access.READ | Access.WRITE)) is Access.READ | Access.WRITE

    def test_class_needs_both_converters_or_neither(self) -> None:
        """Half a pair of converters, or none for a class that needs them, is a TypeError with the line."""
        codec = MsgpackCodec()
        with pytest.raises(TypeError, match="both to= and from_=, or neither"):
            codec.register(Point, to=str)
        with pytest.raises(TypeError, match="both to= and from_=, or neither"):
            codec.register(Point, from_=Point)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"cache.register\(test_codec.Point, to=..., from_=...\)"):
            codec.register(Point)

    @pytest.mark.parametrize("cls", [int, dict, tuple, Decimal, dt.datetime, bytearray, msgpack.ExtType, 3, list[int]])
    def test_types_with_a_form_of_their_own_are_refused(self, cls: Any) -> None:
        """Registering them would change nothing, so it is an error."""
        with pytest.raises(TypeError, match="register takes a class"):
            MsgpackCodec().register(cls, to=str, from_=str)

    def test_name_of_another_class_is_refused(self, shop: MsgpackCodec) -> None:
        """Two classes never share a name; the first one keeps it."""
        with pytest.raises(ValueError, match="name of another class"):
            shop.register(Item, name="test_codec.Money")
        assert shop.decode(shop.encode(Money(Decimal(1)))) == Money(Decimal(1))

    def test_renamed_class_reads_its_old_name(self) -> None:
        """Written under the last registered name, read under all."""
        codec = MsgpackCodec()
        codec.register(Colour, name="old")
        before = codec.encode(Colour.RED)
        codec.register(Colour, name="new")
        after = codec.encode(Colour.RED)
        assert b"old" in before
        assert b"new" in after
        assert codec.decode(before) is codec.decode(after) is Colour.RED

    def test_unknown_name_is_an_error(self, codec: Codec, shop: MsgpackCodec) -> None:
        """Registration belongs to one codec: another one does not know the name."""
        message = fails(codec.decode, shop.encode(Colour.RED))
        assert message == "no class is registered here under the stored name 'test_codec.Colour'"

    def test_converter_that_fails_is_a_codec_error(self) -> None:
        """Whatever to= or from_= raise becomes CodecError with the cause in it."""
        codec = MsgpackCodec()
        codec.register(Point, to=lambda point: point.x / 0, from_=lambda state: [][1])
        told = fails(codec.encode, {"p": Point(1, 2)})
        assert told == "$['p'] is a test_codec.Point that can't be stored: ZeroDivisionError: division by zero"
        assert "IndexError" in fails(codec.decode, stored("test_codec.Point", 1))

    def test_converter_that_makes_another_type_is_a_codec_error(self) -> None:
        """from_ has to give back an instance of the registered class."""
        codec = MsgpackCodec()
        codec.register(Point, to=lambda point: [1], from_=lambda state: state)
        assert "from_ returned a list" in fails(codec.decode, codec.encode(Point(1, 2)))

    def test_converter_that_never_ends_is_too_deep(self) -> None:
        """A to= that returns an instance of its own class is an error, not a crash."""
        codec = MsgpackCodec()
        codec.register(Point, to=lambda point: Point(1, 2), from_=lambda state: state)
        assert fails(codec.encode, Point(1, 2)) == "$ is nested too deep"

    def test_encoding_inside_a_converter_is_safe(self) -> None:
        """A to= may use the same codec."""
        codec = MsgpackCodec()
        codec.register(Point, to=lambda point: codec.encode(point.x), from_=lambda x: Point(codec.decode(x), 0))
        assert codec.decode(codec.encode([Point((1,), 0), Point({2}, 0)])) == [Point((1,), 0), Point({2}, 0)]

    def test_threads_register_while_others_encode(self) -> None:
        """One of two classes wins a name, and every registered class can be stored at once."""
        codec = MsgpackCodec()
        start = threading.Barrier(8)
        refused: list[str] = []
        wrong: list[object] = []

        def work(number: int) -> None:
            start.wait()
            for each in range(50):
                cls = enum.Enum(f"E{number}", ["A"])
                try:
                    codec.register(cls, name=f"shared{each}")
                except ValueError as exc:
                    refused.append(str(exc))
                else:
                    value = [(cls.A, each)]  # type: ignore[attr-defined]
                    if codec.decode(codec.encode(value)) != value:
                        wrong.append(value)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(refused) == 7 * 50


def stored(name: object, state: object) -> bytes:
    """A payload that holds one registered object, made by hand."""
    payload = MsgpackCodec().encode([state])
    body = payload[2:] if payload[:1] == b"\xc1" else payload[1:]
    return b"\xc1\x93\xc7\x00\x13" + msgpack.packb(name) + body


heads = [b"\x90", b"\x92", b"\x93", b"\x81", b"\x82", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
tags = [b"\xc1", b"\xc7\x00\x10", b"\xc7\x00\x11", b"\xc7\x00\x12", b"\xc7\x00\x13"]
scalars = [b"\xc7\x05\x01", b"\xc7\x0c\x02", b"\xd6\x03", b"\xc7\x09\x04", b"\xc7\x0c\x05", b"\xd8\x07"]
names = [b"\xaftest_codec.Item", b"\xb0test_codec.Money", b"\xb0test_codec.Point", b"\xa6amount"]
rest = [b"\xc0", b"\x00", b"\xc7\x03\x06NaN", b"\xd6\xff", b"\xdb\x00\x00\x00\x05"]
fragments = st.sampled_from([*heads, *tags, *scalars, *names, *rest]) | st.binary(max_size=6)
payloads = st.binary() | st.lists(fragments).map(b"".join) | st.lists(fragments).map(lambda f: b"\xc1" + b"".join(f))


class TestHostileBytes:
    @given(payloads)
    @example(b"")
    @example(b"\xc1")
    @example(b"\xc1\x82" + (b"\x92\xc7\x00\x10" * 900 + b"\x00") * 2)
    def test_any_bytes_are_a_value_or_a_codec_error(self, data: bytes) -> None:
        """No input raises anything but CodecError."""
        codec = open_shop()
        with suppress(CodecError):
            codec.decode(data)

    @given(objects, st.data())
    def test_flipped_bytes_are_a_value_or_a_codec_error(self, value: object, data: st.DataObject) -> None:
        """A payload with one byte changed is read as something or refused."""
        codec = open_shop()
        payload = bytearray(codec.encode(value))
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        with suppress(CodecError):
            codec.decode(bytes(payload))

    @given(values)
    def test_every_truncation_and_extension_is_refused(self, value: object) -> None:
        """A payload ends where its value ends, not before and not after."""
        codec = MsgpackCodec()
        payload = codec.encode(value)
        for end in range(0, len(payload), max(1, len(payload) // 50)):
            fails(codec.decode, payload[:end])
        fails(codec.decode, payload + b"\xc0")

    @pytest.mark.parametrize(
        "head",
        [
            pytest.param(b"\xdd\xff\xff\xff\xff", id="array"),
            pytest.param(b"\xdf\xff\xff\xff\xff", id="map"),
            pytest.param(b"\xdb\xff\xff\xff\xff", id="str"),
            pytest.param(b"\xc6\xff\xff\xff\xff", id="bin"),
            pytest.param(b"\xc9\xff\xff\xff\xff\x01", id="ext"),
            pytest.param(b"\xc1\xdd\xff\xff\xff\xff\xc7\x00\x10", id="tuple"),
        ],
    )
    def test_length_that_the_payload_cannot_hold_allocates_nothing(self, codec: Codec, head: bytes) -> None:
        """A header that claims four billion elements costs no memory."""
        assert peak(codec.decode, head + bytes(10)) < MIB

    @pytest.mark.parametrize(
        "level",
        [b"\x91", b"\x81\x00", b"\xc1\x92\xc7\x00\x10", b"\xc1\x93\xc7\x00\x13\xb0test_codec.Money"],
        ids=["array", "map", "tuple", "object"],
    )
    def test_deep_nesting_is_refused(self, shop: MsgpackCodec, level: bytes) -> None:
        """A hundred thousand levels are an error, not a crash."""
        mark, level = (level[:1], level[1:]) if level[0] == 0xC1 else (b"", level)
        assert peak(shop.decode, mark + level * 100_000 + b"\xc0") < 16 * MIB

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"\x81\x90\x00", id="list key"),
            pytest.param(b"\x81\x80\x00", id="dict key"),
            pytest.param(b"\xc1\x81\x92\xc7\x00\x10\x90\x00", id="list in a tuple key"),
            pytest.param(b"\xc1\x92\xc7\x00\x11\x80", id="dict in a set"),
            pytest.param(b"\x81\xc7\x04\x06sNaN\x00", id="sNaN key"),
        ],
    )
    def test_unhashable_key_is_refused(self, codec: Codec, payload: bytes) -> None:
        """Keys and set elements that can't be hashed are malformed."""
        assert "unhashable" in fails(codec.decode, payload) or "signaling NaN" in fails(codec.decode, payload)

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"\xc1\xc7\x00\x10", id="alone"),
            pytest.param(b"\xc1\x92\x00\xc7\x00\x10", id="second"),
            pytest.param(b"\xc1\x81\xc7\x00\x10\x00", id="key"),
            pytest.param(b"\xc1\x92\xc7\x00\x10\xc7\x00\x11", id="after another"),
            pytest.param(b"\xc1\x91\xc7\x01\x10\x00", id="with data"),
            pytest.param(b"\x92\xc7\x00\x10\x00", id="in a plain payload"),
            pytest.param(b"\xc1\xc1\x92\xc7\x00\x10\x00", id="marked twice"),
        ],
    )
    def test_tag_outside_an_arrays_head_is_refused(self, codec: Codec, payload: bytes) -> None:
        """Tags never leak into a value."""
        fails(codec.decode, payload)

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"\xc7\x01\x60\x00", id="unknown code"),
            pytest.param(b"\xd4\xfe\x00", id="negative code"),
            pytest.param(b"\xd6\x03\x07\xe9\x0d\x01", id="month 13"),
            pytest.param(b"\xd5\x03\x07\xe9", id="short date"),
            pytest.param(b"\xd8\x02" + bytes(16), id="year 0"),
            pytest.param(b"\xc7\x0b\x02\x07\xe9\x01\x01\x19\x00\x00" + bytes(4), id="hour 25"),
            pytest.param(b"\xc7\x08\x04" + bytes(7) + b"\x03", id="zone kind 3"),
            pytest.param(b"\xc7\x10\x04" + bytes(8) + b"\x7f" + bytes(7), id="offset of years"),
            pytest.param(b"\xc7\x0f\x04" + bytes(7) + b"\x02../etc/", id="path as zone"),
            pytest.param(b"\xc7\x0f\x04" + bytes(7) + b"\x02Nowhere", id="no such zone"),
            pytest.param(b"\xc7\x08\x04" + bytes(7) + b"\x02", id="empty zone"),
            pytest.param(b"\xc7\x0f\x04" + bytes(7) + b"\x02America", id="directory as zone"),
            pytest.param(b"\xc7\x04\x06abcd", id="no number"),
            pytest.param(b"\xd7\x07" + bytes(8), id="half a UUID"),
            pytest.param(b"\xc7\x0c\x05\x7f\xff\xff\xff" + bytes(8), id="too many days"),
            pytest.param(b"\xa2\xff\xfe", id="no UTF-8"),
            pytest.param(b"\xc1\x92\xc7\x00\x13\x00", id="object without state"),
            pytest.param(b"\xc1\x93\xc7\x00\x13\x90\x00", id="object named by a list"),
            pytest.param(b"\xc1\x91\xc7\x00\x13", id="object of nothing"),
        ],
    )
    def test_malformed_extension_is_refused(self, codec: Codec, payload: bytes) -> None:
        """Extensions are checked by what they stand for."""
        fails(codec.decode, payload)

    def test_msgpack_timestamp_is_read_as_utc(self, codec: Codec) -> None:
        """The one extension of msgpack's own, never written, is read as a datetime."""
        assert codec.decode(b"\xd6\xff\x00\x00\x00\x01") == dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)

    def test_exception_without_words_is_a_codec_error(self) -> None:
        """A from_ whose exception can't even be printed is refused like any other."""

        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        def restore(state: object) -> Point:
            raise Mute

        codec = MsgpackCodec()
        codec.register(Point, to=lambda point: 1, from_=restore)
        assert fails(codec.decode, codec.encode(Point(1, 2))).endswith("can't be restored: Mute")


@pytest.fixture(params=["zlib", "zstd"])
def method(request: pytest.FixtureRequest) -> str:
    if request.param == "zstd":
        pytest.importorskip("zstandard")
    return str(request.param)


class TestCompression:
    @pytest.mark.parametrize("size", [100, 8193, 3 * MIB])
    def test_payload_comes_back_at_exactly_its_limit(self, method: str, size: int) -> None:
        """The limit is inclusive: a payload of `limit` bytes is read, one byte more is refused."""
        payload = (b"tiercache " * (size // 10 + 1))[:size]
        data, compression = compress(payload, method, 0)
        assert decompress(data, compression, size) == payload
        fails(decompress, data, compression, size - 1)

    def test_ids_are_those_of_the_wire(self) -> None:
        """0 none, 1 zlib, 2 zstd."""
        assert compress(bytes(100), None, 0) == (bytes(100), 0)
        assert compress(bytes(100), "zlib", 0)[1] == 1
        pytest.importorskip("zstandard")
        assert compress(bytes(100), "zstd", 0)[1] == 2

    def test_small_or_dense_payload_stays_as_it_is(self, method: str) -> None:
        """Nothing is compressed up to the threshold, nor where it would grow."""
        dense = bytes(range(256))
        assert compress(bytes(8192), method, 8192) == (bytes(8192), 0)
        assert compress(bytes(8193), method, 8192)[1] != 0
        assert compress(dense, method, 0) == (dense, 0)

    def test_uncompressed_payload_has_the_limit_too(self) -> None:
        """The limit holds without compression."""
        assert decompress(b"abc", 0, 3) == b"abc"
        fails(decompress, b"abc", 0, 2)

    def test_unknown_method_or_id_is_named(self) -> None:
        """A wrong setting is a PolicyError even with nothing to compress; a wrong id is a CodecError."""
        with pytest.raises(PolicyError, match="'lz4'"):
            compress(b"", "lz4", 100)
        assert "compression 3" in fails(decompress, b"", 3, 100)

    def test_missing_zstandard_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the package the setting fails at once, and a record that needs it is undecodable."""
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(PolicyError, match=r"pip install 'tiercache-client\[zstd\]'"):
            compress(b"", "zstd", 100)
        assert "zstandard" in fails(decompress, b"abc", 2, 100)

    def test_truncated_or_followed_data_are_refused(self, method: str) -> None:
        """Compressed data end where they end."""
        data, compression = compress(bytes(range(256)) * 100, method, 0)
        for end in range(len(data)):
            fails(decompress, data[:end], compression, MIB)
        fails(decompress, data + b"\0", compression, MIB)
        fails(decompress, data + data, compression, MIB)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused_or_decompressed(self, data: bytes) -> None:
        """No input raises anything but CodecError."""
        for compression, magic in ((1, b"x\x9c"), (2, b"\x28\xb5\x2f\xfd")):
            for head in (b"", magic):
                with suppress(CodecError):
                    assert len(decompress(head + data, compression, 1000)) <= 1000

    def test_flipped_byte_is_refused_or_stays_within_the_limit(self, method: str) -> None:
        """Damage inside compressed data never raises anything but CodecError."""
        data, compression = compress(b"".join(b"%d" % (number**3) for number in range(500)), method, 0)
        for index in range(len(data)):
            flipped = data[:index] + bytes([data[index] ^ 0x10]) + data[index + 1 :]
            with suppress(CodecError):
                assert len(decompress(flipped, compression, 8192)) <= 8192

    def test_zlib_bomb_costs_no_more_than_the_limit(self) -> None:
        """A hundred megabytes of zeros are given up at the limit."""
        bomb = zlib.compress(bytes(100 * MIB))
        assert peak(decompress, bomb, 1, MIB) < 4 * MIB

    def test_zstd_bomb_costs_no_more_than_the_limit(self) -> None:
        """Frames that claim too much, claim nothing, or hold more than they claim are refused."""
        zstandard: Any = pytest.importorskip("zstandard")
        head = b"\x28\xb5\x2f\xfd"
        honest = zstandard.ZstdCompressor().compress(bytes(100 * MIB))
        silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 * MIB))
        endless = head + b"\xe0" + b"\xff" * 8 + bytes(100)
        size = zstandard.frame_content_size(honest)
        lying = honest.replace(struct.pack("<I", size), struct.pack("<I", 1000), 1)
        assert lying != honest
        for bomb in (honest, silent, endless, lying, zstandard.ZstdCompressor().compress(b"")):
            assert peak(decompress, bomb, 2, MIB) < 4 * MIB

    def test_zstd_window_is_bounded(self) -> None:
        """A frame that asks for a huge window is refused before anything is allocated."""
        pytest.importorskip("zstandard")
        # No single segment, window descriptor 2^41, content size 2 bytes: 256 + 256.
        frame = b"\x28\xb5\x2f\xfd" + b"\x40" + b"\xf8" + b"\x00\x01" + b"\x01\x00\x00"
        assert peak(decompress, frame, 2, MIB) < MIB


def test_default_codec_is_a_codec() -> None:
    """The default implementation fits the plug point and has id 1."""
    codec: Codec = MsgpackCodec()
    assert codec.id == 1


def test_nan_key_comes_back(codec: Codec) -> None:
    """A nan key, equal to nothing, is still there."""
    (key,) = codec.decode(codec.encode({math.nan: UUID(int=1)}))  # type: ignore[attr-defined]
    assert math.isnan(key)
