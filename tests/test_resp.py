"""RESP2 on the wire, read by hiredis and by our own reader alike."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiercache.local.packing import pack_read
from tiercache.remote import resp
from tiercache.remote.resp import INCOMPLETE, MALFORMED, Malformed, Reader, Refusal, pack, pack_all, reader

READERS: list[Callable[[], Any]] = [Reader] if resp.hiredis is None else [Reader, resp.reader]


@pytest.fixture(params=READERS, ids=["python", "hiredis"][: len(READERS)])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def wire(reply: Any) -> bytes:
    """How a server writes a reply."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Refusal):
        return b"-%b\r\n" % str(reply).encode()
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, list):
        return b"*%d\r\n" % len(reply) + b"".join(map(wire, reply))
    return b"$%d\r\n%b\r\n" % (len(reply), reply)


def plain(reply: Any) -> Any:
    """Comparable: exceptions are equal by their text."""
    if isinstance(reply, list):
        return [plain(each) for each in reply]
    return ("refused", str(reply)) if isinstance(reply, Refusal) else reply


leaves = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=60),
    st.sampled_from([Refusal("ERR no"), Refusal("WRONGTYPE Operation")]),
)
replies = st.lists(st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=8), max_size=6)


@example([-(2**63), 2**63 - 1], [])
@given(replies, st.lists(st.integers(1, 40), max_size=30))
def test_replies_come_out_whole_however_they_were_cut(expected: list[Any], sizes: list[int]) -> None:
    """Every way of receiving the bytes gives the same replies in the same order, and nothing more."""
    data = b"".join(map(wire, expected))
    for make in READERS:
        reader, rest, out = make(), data, []
        for size in [*sizes, max(1, len(data))]:
            reader.feed(rest[:size])
            rest = rest[size:]
            while (reply := reader.gets()) is not INCOMPLETE:
                out.append(reply)
        assert plain(out) == plain(expected)
        assert not reader.has_data()


def test_a_reply_that_is_not_whole_stays(make: Any) -> None:
    """`has_data` says that something was received which nobody has taken."""
    reader = make()
    assert reader.gets() is INCOMPLETE
    assert not reader.has_data()
    reader.feed(b"$5\r\nab")
    assert reader.gets() is INCOMPLETE
    assert reader.has_data()
    reader.feed(b"cde\r\n+OK\r\n")
    assert reader.gets() == b"abcde"
    assert reader.has_data()
    assert reader.gets() == b"OK"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x01\x00\x02\r\n", b":1x\r\n", b":\r\n", b":1_0\r\n",
        b"$-2\r\n", b"$x\r\n", b"*-2\r\n", b"*x\r\n", b":99999999999999999999\r\n", b"*4000000000\r\n",
        b"*99999999999\r\n", b"$99999999999999999999\r\n", b"%1\r\n*1\r\n:1\r\n+a\r\n", b"\r\n",
    ],
)  # fmt: skip
def test_what_is_not_resp2_is_malformed(make: Any, data: bytes) -> None:
    """Nothing but MALFORMED is raised, whatever comes."""
    reader = make()
    reader.feed(data)
    with pytest.raises(MALFORMED):
        reader.gets()


@given(st.binary(max_size=200))
def test_noise_is_read_malformed_or_waited_for(noise: bytes) -> None:
    """Any bytes at all: a reply, INCOMPLETE or MALFORMED."""
    for make in READERS:
        reader = make()
        reader.feed(noise)
        try:
            while reader.gets() is not INCOMPLETE:
                pass
        except MALFORMED:
            pass


@pytest.mark.parametrize("data", [b"*1\r\n" * 100_000, b"+" + b"x" * 200_000, b"$3\r\nabcdef", b"%1\r\n+a\r\n+b\r\n"])
def test_the_python_reader_bounds_what_it_keeps(data: bytes) -> None:
    """Deep nesting, endless lines, strings longer than they say and RESP3 end the connection."""
    reader = Reader()
    reader.feed(data)
    with pytest.raises(Malformed):
        reader.gets()


def test_commands_are_packed_as_strings(make: Any) -> None:
    """Bytes, text and numbers go as bulk strings; several commands in one write."""
    assert pack("SET", b"\x00\r\n", 5, "é") == b"*4\r\n$3\r\nSET\r\n$3\r\n\x00\r\n\r\n$1\r\n5\r\n$2\r\n\xc3\xa9\r\n"
    reader = make()
    reader.feed(pack_all([("GET", "a"), ("GET", "b")]))
    assert [reader.gets(), reader.gets()] == [[b"GET", b"a"], [b"GET", b"b"]]


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 99, 100, 65_536, 1_000_000])
def test_a_command_of_any_size_comes_back(make: Any, size: int) -> None:
    """However many digits its numbers have."""
    reader = make()
    reader.feed(pack(b"x" * size, *range(8, 102), -(10**30), b"end"))
    assert reader.gets() == [b"x" * size, *(b"%d" % n for n in range(8, 102)), b"-1" + b"0" * 30, b"end"]
    assert not reader.has_data()


def test_a_word_that_is_no_text_is_an_error() -> None:
    """And nothing is packed."""
    with pytest.raises(UnicodeEncodeError):
        pack("GET", "\ud800")
    with pytest.raises(UnicodeEncodeError):
        pack_read("\ud800")


@pytest.mark.parametrize("name", ["", "n", "n" * 9, "n" * 10, "é" * 50, "n" * 100_000])
def test_a_read_is_packed_as_its_two_commands_are(name: str) -> None:
    """Whatever the name."""
    assert pack_read(name) == pack_all([("PTTL", name), ("GET", name)])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("WRONGTYPE Operation against a key", "WRONGTYPE"),
        ("ERR unknown command", "ERR"),
        ("something in lower case", "ERR"),
        ("", "ERR"),
        ("OOM", "OOM"),
        ("NOAUTH Authentication required.", "NOAUTH"),
        ("ERR Protocol error: unauthenticated multibulk length", "NOAUTH"),
        ("OOM command not allowed. script: 064d, on @user_script:1.", "OOM"),
        ("ERR Error running script (call to f_8e64): @user_script:1: WRONGTYPE Operation against", "WRONGTYPE"),
        ("ERR Error running script (call to f_8e64): @user_script:1: @user_script: 1: -OOM command not", "OOM"),
        ("ERR Error running script (call to f_8e64): @user_script:9: user_script:1: attempt to index", "ERR"),
        ("@user_script: 1: -READONLY You can't write against a read only replica.", "READONLY"),
        ("ERR The user executing the script can't run this command or subcommand script: 8fea", "NOPERM"),
        ("ERR ACL failure in script: No permissions to access a channel script: 5aa7, on @user_script:26.", "NOPERM"),
        ("ERR Error running script (call to f_8): @user_script:1: @user_script: 1: The user executing the script "
         "can't publish to the channel mentioned in the command", "NOPERM"),
    ],
)  # fmt: skip
def test_a_refusal_has_the_code_of_what_was_refused(text: str, code: str) -> None:
    """Also where 6.2 wraps a script's error in another, and where a script's missing permission has no code."""
    assert Refusal(text).code == code


def test_without_hiredis_the_python_reader_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `fast` may be missing."""
    monkeypatch.setattr(resp, "hiredis", None)
    assert type(reader()) is Reader
