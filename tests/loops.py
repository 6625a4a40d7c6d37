"""Event loops of each kind that tasks of ours may run on."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

KINDS = ("asyncio", "debug", "uvloop", "tasks in Python")  # such as a debugger has


@contextmanager
def runner_of(kind: str) -> Iterator[asyncio.Runner]:
    """A runner with a loop of one of KINDS, or with "eager tasks"; the test is skipped where there is none."""
    make = pytest.importorskip("uvloop").new_event_loop if kind == "uvloop" else None
    with asyncio.Runner(debug=kind == "debug", loop_factory=make) as runner:
        if kind == "eager tasks":
            if sys.version_info < (3, 12):
                pytest.skip("eager tasks came with 3.12")
            runner.get_loop().set_task_factory(asyncio.eager_task_factory)
        if kind == "tasks in Python":
            runner.get_loop().set_task_factory(
                lambda loop, coroutine, **given: asyncio.tasks._PyTask(coroutine, loop=loop, **given)  # type: ignore[attr-defined]
            )
        yield runner
