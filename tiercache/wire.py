"""How one process reaches its Redis: connections for threads, connections for event loops, and the inbox."""

from typing import Any, Protocol

from tiercache.remote.address import Address
from tiercache.remote.inbox import Inbox, Slots
from tiercache.remote.links import Link, Links


class Wire(Protocol):
    """What carries the protocol; `tiercache.testing` has one that needs no server."""

    def links(self) -> Any:
        """The connections of this process's threads: `exchange(packed, replies, timeout)`."""

    def loop_links(self) -> Any:
        """Those of one event loop: `free()` or `await link(patience)`, then `await link.exchange(...)`."""

    def inbox(self, channels: tuple[str, str], slots: Slots, **hooks: Any) -> Any:
        """An `Ear` that hears these channels from `start` to `close`; the hooks are the Ear's, and `draw`."""
        ...


class RedisWire:
    """Connections to a real Redis. `limit`: the largest reply, in bytes."""

    def __init__(self, address: Address, connect_timeout: float, limit: int) -> None:
        self._address = address
        self._connect_timeout = connect_timeout
        self._limit = limit

    def links(self) -> Links:
        return Links(self._address, self._connect_timeout, self._limit)

    def loop_links(self) -> Any:
        from tiercache.aio_link import LoopLinks

        return LoopLinks(self._address, self._connect_timeout, self._limit)

    def inbox(self, channels: tuple[str, str], slots: Slots, **hooks: Any) -> Inbox:
        def connect() -> Link:
            return Link(self._address, self._connect_timeout)

        return Inbox(connect, channels, slots, patience=self._connect_timeout, **hooks)
