"""Asking a worker for a refresh: what is sent, and how long this process is patient before it does it itself.

Only calls of functions that are decorated with the cache can be sent. A worker is never needed: whatever is wrong, the
answer is that this process is to refresh by itself.
"""

import logging
from functools import partial
from typing import Any

from tiercache.errors import CodecError
from tiercache.local.flight import Flight
from tiercache.local.store import Entry
from tiercache.policy import Policy
from tiercache.port import Loader, Node, Port, RemoteDown, RemoteRefused, keep

log = logging.getLogger("tiercache")

LEAST = 0.1  # seconds that workers have, at least


class Called(partial[Any]):
    """The loader of one call of a cached function; `label` names the function in every process, `name` is its own."""

    name: str
    label: str


async def ask(port: Port, flight: Flight, loader: Loader | None, policy: Policy) -> float:
    """Ask the workers to refresh an entry. Seconds that they have for it; 0: this process is to do it, now."""
    node, seen = port.node, flight.seen
    if not isinstance(loader, Called) or node.jobs is None or seen is None or not seen.id:
        return 0.0
    left = seen.fresh + policy.stale_while_revalidate - node.now()
    seconds = 0.0 if left <= 0 else await _send(port, flight.key, seen, loader, policy, left)
    node.count("jobs_sent" if seconds else "jobs_unsent")
    if seconds:
        keep(node.asked, flight.key, seen.id)
    return seconds


async def _send(port: Port, key: str, seen: Entry, loader: Called, policy: Policy, left: float) -> float:
    node = port.node
    patience = min(policy.lease, max(LEAST, (left - seen.delta) / 2))
    try:
        if loader.label.startswith("__main__."):
            raise CodecError("a worker knows the functions of __main__ by another name: put them into a module")
        job = [loader.label, list(loader.args), loader.keywords]
        record = node.values.pack_job(key, job, id=seen.id, use=left, delta=seen.delta)
        seconds: float = await node.jobs.send(port, record, key, patience)
    except CodecError as error:
        if loader.label not in node.unsendable:
            keep(node.unsendable, loader.label, None)
            log.warning("Calls of %s can't be sent to a worker: %s", loader.label, error)
        return 0.0
    except (RemoteDown, RemoteRefused):
        return 0.0
    _tell(node, bool(seconds))
    return seconds


def _tell(node: Node, alive: bool) -> None:
    if alive is node.workers_alive:
        return
    node.workers_alive = alive
    if alive:
        log.warning("The workers are back")
    else:
        log.warning("No tiercache worker is alive: this process refreshes by itself")
