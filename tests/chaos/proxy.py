"""A TCP proxy between caches and Redis that breaks connections in the ways networks do."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

Direction = Literal["up", "down"]  # to Redis; to the cache
_RESET = struct.pack("ii", 1, 0)
_CHUNK = 65_536


class _Connection:
    """One pair of sockets."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.inbox = False  # it sent SUBSCRIBE
        self.silent = False  # nothing more comes down
        self.broken = False  # something was thrown away
        self.cut_on_reply = False
        self.last = b""  # the end of what went up
        self.pumps: list[asyncio.Task[None]] = []

    def end(self, loop: asyncio.AbstractEventLoop, reset: bool) -> None:
        for pump in self.pumps:
            pump.cancel()
        for each in (self.client, self.server):
            if each.fileno() >= 0:
                loop.remove_reader(each)
                loop.remove_writer(each)
            if reset and each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.close()


class Proxy:
    """Listens on a port of its own and passes everything on to `port` of 127.0.0.1, until it is told otherwise.

    Runs on a thread of its own; each method returns when its effect is there. A context manager.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._listener: socket.socket | None = None
        self._connections: set[_Connection] = set()
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._losing: tuple[bytes, bool] = (b"", False)
        self._to_lose = 0
        self._left: dict[str, int] = {}  # bytes until a cut
        self._delay = {"up": 0.0, "down": 0.0}
        self._dropped: set[str] = set()
        self._held_inbox = False
        self.port = 0
        self.lost = 0  # replies that were swallowed
        self._thread = threading.Thread(target=self._run, name="chaos-proxy", daemon=True)
        self._thread.start()
        self.recover()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._do(lambda: len(self._connections))

    def aim(self, port: int) -> None:
        """New connections go there."""
        self._do(lambda: setattr(self, "_target", port))

    def cut(self, *, inbox: bool | None = None, reset: bool = True) -> None:
        """Cut every connection, or those that are (not) an inbox; with a reset or an orderly end."""
        self._do(lambda: [self._end(each, reset) for each in list(self._connections) if inbox in (None, each.inbox)])

    def cut_after(self, size: int, direction: Direction) -> None:
        """Cut the connection that carries the `size`-th byte from now on; once."""
        self._do(lambda: self._left.update({direction: size}))

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Everything takes that long, in both directions or those named."""
        self._do(lambda: self._delay.update(dict.fromkeys(directions or ("up", "down"), seconds)))

    def hold(self, *directions: Direction) -> None:
        """Stop reading in both directions or those named; what is there comes through on `recover`."""
        self._do(lambda: [self._open[each].clear() for each in directions or ("up", "down")])

    def hold_inbox(self) -> None:
        """Stop reading what Redis sends to inboxes."""
        self._do(lambda: setattr(self, "_held_inbox", True))

    def drop(self, *directions: Direction) -> None:
        """Read and throw away, in both directions or those named: a half-open connection."""
        self._do(lambda: self._dropped.update(directions or ("up", "down")))

    def refuse(self) -> None:
        """Stop listening."""
        self._do(self._refuse)

    def lose_reply(self, to: bytes, *, cut: bool, times: int = 1) -> None:
        """The next command with `to` in it is executed and its answer lost: by a cut, or by silence from then on."""

        def lose() -> None:
            self._losing, self._to_lose = (to, cut), times
            for each in self._connections:
                each.last = b""

        self._do(lose)

    def recover(self) -> None:
        """Do nothing but pass on; what was held comes through, connections that lost something are cut."""
        self._do(self._recover)

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # On the proxy's thread.

    def _do(self, act: Callable[[], Any]) -> Any:
        async def main() -> Any:
            return act()

        return asyncio.run_coroutine_threadsafe(main(), self._loop).result(30)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _recover(self) -> None:
        self._to_lose, self._left, self._held_inbox = 0, {}, False
        self._delay = dict.fromkeys(self._delay, 0.0)
        self._dropped.clear()
        for each in self._open.values():
            each.set()
        for connection in list(self._connections):
            if connection.silent or connection.broken:  # TCP loses nothing and goes on
                self._end(connection, reset=True)
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _close(self) -> None:
        self._refuse()
        for connection in list(self._connections):
            self._end(connection, reset=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _end(self, connection: _Connection, reset: bool) -> None:
        self._connections.discard(connection)
        connection.end(self._loop, reset)

    def _accept(self, listener: socket.socket) -> None:
        # In one step, so that a cut that follows finds the connection; on loopback nothing here takes long.
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it went before it was accepted
        server = socket.socket()
        # Small, so that a reader who stalls is felt by Redis.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        try:
            server.connect(("127.0.0.1", self._target))
        except OSError:
            client.close()
            server.close()
            return
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client, server)
        self._connections.add(connection)
        connection.pumps = [
            self._loop.create_task(self._pump(connection, "up", client, server)),
            self._loop.create_task(self._pump(connection, "down", server, client)),
        ]

    async def _pump(self, connection: _Connection, way: Direction, source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                await self._may_read(connection, way)
                data = await self._loop.sock_recv(source, _CHUNK)
                if not data:
                    break
                if self._delay[way]:
                    await asyncio.sleep(self._delay[way])
                await self._may_read(connection, way)
                if await self._passes(connection, way, data, sink):
                    await self._loop.sock_sendall(sink, data)
        except OSError:
            pass  # either end was faster
        self._end(connection, reset=False)

    async def _may_read(self, connection: _Connection, way: Direction) -> None:
        await self._open[way].wait()
        while way == "down" and connection.inbox and self._held_inbox:
            await asyncio.sleep(0.01)

    async def _passes(self, connection: _Connection, way: Direction, data: bytes, sink: socket.socket) -> bool:
        """May this be passed on? Does what was ordered for it if not."""
        left = self._left.get(way)
        if left is not None:
            self._left[way] = left - len(data)
            if self._left[way] <= 0:
                del self._left[way]
                await self._loop.sock_sendall(sink, data[: max(0, left - 1)])
                self._end(connection, reset=True)
                return False
        if way == "up":
            seen = connection.last + data
            connection.last = seen[-100:]
            connection.inbox = connection.inbox or b"SUBSCRIBE" in seen
            if self._to_lose and self._losing[0] in seen:
                connection.silent, connection.cut_on_reply = True, self._losing[1]
                self._to_lose -= 1
        elif connection.silent:
            self.lost += 1
            if connection.cut_on_reply:
                self._end(connection, reset=True)
            return False
        if way in self._dropped:
            connection.broken = True
        return way not in self._dropped
