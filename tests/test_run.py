"""A coroutine of a blocking port, as a call."""

import types
from collections.abc import Generator

import pytest

from tiercache.blocking import run


@types.coroutine
def suspend() -> Generator[None, None, None]:
    yield


async def ended(value: object) -> object:
    return value


@pytest.mark.parametrize("value", [None, 1, (1, 2), StopIteration(3)])
def test_the_result_is_what_the_coroutine_returns(value: object) -> None:
    """Whatever it is."""
    assert run(ended(value)) is value


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_the_coroutine_raises_is_raised(kind: type[BaseException]) -> None:
    """The same object."""
    error = kind("on purpose")

    async def fails() -> None:
        raise error

    with pytest.raises(kind) as raised:
        run(fails())
    assert raised.value is error


def test_a_coroutine_that_suspends_is_closed_and_a_defect() -> None:
    """It is said at once, and what it holds is given back."""
    left = []

    async def suspends() -> None:
        try:
            await suspend()
        finally:
            left.append("left")

    with pytest.raises(RuntimeError, match="defect"):
        run(suspends())
    assert left == ["left"]
