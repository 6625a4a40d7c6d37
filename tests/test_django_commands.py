"""Django's command line: runserver with its autoreload, and management commands that end, or are ended."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django", reason="Django is not installed (extra apps)")
pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")

import httpx
from apps.django_served import Shop, a_shop
from apps.serving import until


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with a_shop(tmp_path) as shop:
        yield shop


def ask(web: Any, path: str) -> Any:
    """The answer, from whichever process is there: a change that is seen twice starts two."""
    answers: list[Any] = []

    def asked() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answers.append(web.get(path))
        return bool(answers)

    until(asked, "an answer")
    return answers[0]


def change(shop: Shop, done: Callable[[], bool]) -> None:
    """Touch a file of the project's until runserver has noticed: it may not have watched it yet."""
    views, changes = shop.folder / "shop" / "views.py", 0

    def noticed() -> bool:
        nonlocal changes
        changes += 1
        if changes % 100 == 1:
            views.write_text(views.read_text() + "\n# changed\n")
        return done()

    until(noticed, "the reload")


def pid(web: Any) -> int:
    return int(ask(web, "/health").json()["pid"])


def test_runserver_reloads(shop: Shop) -> None:
    """A changed file starts a new process, which goes on with what is cached."""
    with shop.runserver() as web:
        before = pid(web)
        assert {web.get("/item/1").status_code for _ in range(10)} == {200}
        assert web.get("/page").text == f"rendered by {before}"
        change(shop, lambda: pid(web) != before)
        assert ask(web, "/item/1").json()["price"] == 5
        assert ask(web, "/page").text == f"rendered by {before}"
        assert shop.loads("item:1") == 1


def test_runserver_reloads_in_the_middle_of_a_load(shop: Shop) -> None:
    """The process that loads is gone with its lease; the new one loads at once, though the old query still hung."""
    with shop.runserver() as web:
        before = pid(web)
        with shop.locked(), ThreadPoolExecutor(1) as pool:
            hung = pool.submit(web.get, "/item/1")
            until(lambda: shop.loads("item:1") == 1 and shop.leases(), "the load")
            change(shop, hung.done)
            assert isinstance(hung.exception(), httpx.TransportError)
            until(lambda: not shop.leases(), "the end of the lease")
        assert ask(web, "/item/1").json()["price"] == 5
        assert pid(web) != before
        assert shop.loads("item:1") == 2


def test_a_management_command(shop: Shop) -> None:
    """It uses both caches, ends at once, and says nothing but what it should; the next one finds what it stored."""
    assert shop.manage("warm", "1", "2") == "cup, pot"
    assert shop.manage("warm", "1", "2") == "cup, pot"
    assert shop.loads("item:1") == shop.loads("item:2") == 1
    assert shop.leases() == []


def test_a_management_command_that_is_stopped_in_a_load(shop: Shop) -> None:
    """After Ctrl-C the lease is free at once; after a SIGKILL it runs out, and the next command loads then."""
    with shop.locked(), shop.command("warm", "1") as command:
        until(lambda: shop.leases("item:1"), "the load")
        command.kill()
        command.communicate(timeout=60)
    assert shop.manage("warm", "1") == "cup"

    def interrupted() -> bool:
        shop.client.flushall()
        with shop.command("warm", "2") as command:
            with shop.locked():
                until(lambda: shop.leases("item:2"), "the load")
                command.send_signal(signal.SIGINT)
            _, complaints = command.communicate(timeout=60)
        assert shop.leases() == []
        return complaints.rstrip().endswith("KeyboardInterrupt")

    until(interrupted, "a Ctrl-C that Python heard")  # it ignores one that arrives within a __del__
    assert shop.manage("warm", "1", "2") == "cup, pot"
