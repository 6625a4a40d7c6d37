"""Jupyter: a real kernel, cells that await, cells that are interrupted in a load, and a kernel that ends."""

import os
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from apps import serving
from apps.serving import Supplier, until
from redis_server import RedisServer

manager = pytest.importorskip("jupyter_client.manager", reason="jupyter_client is not installed (extra apps)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra apps)")
pytest.importorskip("httpx", reason="httpx is not installed (extra apps)")

SETUP, *CELLS = (serving.HERE / "notebook.py").read_text(encoding="utf-8").split("\n# %%")
ITEMS = {n: {"path": f"/items/{n}", "call": 1} for n in (1, 2)}
OFFER = {"path": "/offer", "call": 1}


class Notebook:
    """A kernel whose cache is made; its cells are run as a notebook would."""

    def __init__(self, kernel: Any, client: Any, supplier: Supplier, redis: RedisServer) -> None:
        self.kernel, self.client, self.supplier, self.redis = kernel, client, supplier, redis

    def shows(self, cell: str) -> Any:
        """The value that a cell shows."""
        shown: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(
            cell, timeout=60, allow_stdin=False, output_hook=lambda message: shown.append(message["content"])
        )
        assert reply["content"]["status"] == "ok", shown
        [text] = [each["data"]["text/plain"] for each in shown if "data" in each] or ["None"]
        assert not [each["text"] for each in shown if "text" in each], shown
        return literal_eval(text)

    def interrupted(self, cell: str, when: Callable[[], object]) -> str:
        """The error with which a cell ends that is interrupted while it runs."""
        cell_id = self.client.execute(cell)
        until(when, "the load")
        ends: list[str] = []

        def ended() -> bool:
            self.kernel.interrupt_kernel()
            self.client.kernel_info()  # a kernel whose loop sleeps takes notice at the next message
            try:
                while True:
                    reply = self.client.get_shell_msg(timeout=1)
                    if reply["parent_header"]["msg_id"] == cell_id:
                        ends.append(reply["content"]["ename"])
            except Empty:
                return bool(ends)

        until(ended, "the end of the cell")
        return ends[0]

    def leases(self) -> list[bytes]:
        with self.redis.client() as client:
            return list(client.scan_iter("tc1:*:l"))


@contextmanager
def a_kernel(folder: Path, supplier: Supplier, redis: RedisServer) -> Iterator[Notebook]:
    """A kernel as a notebook server starts it; it must end by itself, and leave nothing behind."""
    folders = dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"), str(folder))
    env = {"SHOP_CACHE_URL": redis.tcp_url, "SHOP_SUPPLIER": supplier.url}
    kernel = manager.KernelManager(connection_file=str(folder / "kernel.json"), transport="ipc")
    with open(folder / "log", "ab") as log:
        kernel.start_kernel(stdout=log, stderr=log, cwd=str(folder), env={**os.environ, **folders, **env})
    process, client = kernel.provisioner.process, kernel.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        notebook = Notebook(kernel, client, supplier, redis)
        notebook.shows(SETUP)
        yield notebook
    finally:
        client.stop_channels()
        kernel.shutdown_wait_time = 60
        kernel.shutdown_kernel()
    assert process.returncode == 0
    assert (folder / "log").read_text() == ""
    assert notebook.leases() == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Path, Supplier, RedisServer]]:
    with RedisServer() as redis, serving.a_supplier() as supplier:
        yield tmp_path, supplier, redis
        with redis.client() as client:
            until(lambda: len(client.client_list()) == 1, "the end of every other connection")


def test_the_cells_of_the_page(world: tuple[Path, Supplier, RedisServer]) -> None:
    """docs/scripts.md shows them: top-level await, a plain call, many at once, both colours on one key."""
    with a_kernel(*world) as notebook:
        assert [notebook.shows("#" + cell) for cell in CELLS] == [
            ITEMS[1], OFFER, [ITEMS[1], ITEMS[2], ITEMS[2], ITEMS[1]], [ITEMS[2], OFFER],
        ]  # fmt: skip
        assert notebook.shows("cache.stats()['loads']") == 3
    with a_kernel(*world) as again:
        assert again.shows("[await load_item(1), load_offer(), cache.stats()['loads']]") == [ITEMS[1], OFFER, 0]
    assert set(world[1].calls.values()) == {1}


def test_a_cell_that_is_run_again_piles_nothing_up(world: tuple[Path, Supplier, RedisServer]) -> None:
    """The cache that it replaces is dropped, and with it its connections and threads."""
    with a_kernel(*world) as notebook, notebook.redis.client() as client:
        assert notebook.shows("[await load_item(1), load_offer()]") == [ITEMS[1], OFFER]
        connections = len(client.client_list())
        for _ in range(5):
            notebook.shows(SETUP)
            assert notebook.shows("[await load_item(1), load_offer()]") == [ITEMS[1], OFFER]
        until(lambda: len(client.client_list()) <= connections, "the end of the old connections")
        threads = "import threading; sorted(t.name for t in threading.enumerate() if t.name.startswith('tiercache-'))"
        until(lambda: notebook.shows(threads) == ["tiercache-inbox", "tiercache-timer"], "the end of the old threads")


def test_an_interrupted_cell_gives_its_lease_back(world: tuple[Path, Supplier, RedisServer]) -> None:
    """Whether it awaited or blocked; the cell that is run next loads at once, though the old call still hangs."""
    with a_kernel(*world) as notebook:
        for cell, path, error in (
            ("await load_item(1)", "/items/1", "CancelledError"),
            ("load_offer()", "/offer", "KeyboardInterrupt"),
        ):
            go = notebook.supplier.hold(path)
            assert notebook.interrupted(cell, lambda path=path: notebook.supplier.calls[path]) == error
            until(lambda: not notebook.leases(), "the end of the lease")
            assert notebook.shows(cell)["call"] == 2
            go.set()


def test_a_plain_call_does_not_wait_for_a_task_of_its_notebook(world: tuple[Path, Supplier, RedisServer]) -> None:
    """A cell blocks the kernel's loop: it loads by itself what a task of an earlier cell loads, and is counted."""
    with a_kernel(*world) as notebook:
        go = notebook.supplier.hold("/items/1")
        notebook.shows("loading = asyncio.create_task(load_item(1)); await asyncio.sleep(0)")
        until(lambda: notebook.supplier.calls["/items/1"] == 1, "the load")
        assert notebook.shows("cache.get_or_load('item:1', lambda: 'by the cell')") == "by the cell"
        assert notebook.shows("cache.stats()['bypass_loop']") == 1
        go.set()
        assert notebook.shows("await loading") == ITEMS[1]


def test_a_kernel_ends_in_the_middle_of_a_load(world: tuple[Path, Supplier, RedisServer]) -> None:
    """Nobody closed the cache; the lease is given back, no connection is left, and nothing is said."""
    with a_kernel(*world) as notebook:
        notebook.supplier.hold("/items/1")
        notebook.shows("loading = asyncio.create_task(load_item(1)); await asyncio.sleep(0)")
        until(lambda: notebook.supplier.calls["/items/1"] == 1, "the load")
        assert len(notebook.leases()) == 1
