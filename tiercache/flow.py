"""The protocol between a miss and a value, written once.

Why `async def`, though threads run it too: the blocking port's methods never suspend, so a thread finishes one
of these coroutines with a single send. Nothing here knows a clock, chance, sockets, threads or an event loop;
it asks the port.

A call asks the table what to do. Whoever is told LEAD or DUE owns a flight, and a `Leader` takes it to its
settlement; whoever is told JOIN waits for that. Every fill of tier 1 goes through a flight.

This file is longer than others because reading, loading, writing and invalidating end flights by the same rules, and
are read together.
"""

import math
from typing import Any

from tiercache import events
from tiercache.errors import LoadTimeout, ReentrantLoadError
from tiercache.leader import Leader, behind
from tiercache.local.flight import Flight
from tiercache.local.following import Following
from tiercache.local.outcome import AGAIN, Outcome, answer
from tiercache.local.record import Found
from tiercache.local.store import Entry
from tiercache.local.table import Mode, Verdict
from tiercache.patience import PATIENT, Deadlines, late, meanwhile, tail
from tiercache.policy import Policy
from tiercache.port import Lease, Loader, Node, Port, RemoteDown, RemoteRefused
from tiercache.reading import look, unverified

HIT, DUE, LEAD, JOIN, ALONE = map(int, Verdict)
LOAD, READ, FORCE, WRITE, VERIFY, _ = map(int, Mode)
BATCH = 512  # keys in one write


async def get_or_load(
    port: Port, key: str, loader: Loader, policy: Policy, mode: int = LOAD, ends: Deadlines | None = None
) -> Outcome | Following:
    """The value of `key`, loaded if need be; `mode` FORCE loads whatever is cached."""
    node = port.node
    if not node.ready:
        await port.ready()
    ends = ends or _deadlines(node, policy, mode)
    while True:
        verdict, *rest = node.table.probe(
            key, node.now(), node.draw(), policy.stale_while_revalidate, policy.beta, mode
        )
        if verdict == HIT:
            return _local(node, key, rest[0])
        flight = rest[-1]
        if verdict == DUE:
            return await _due(port, flight, loader, policy, ends)
        if node.reenters(key):
            if verdict == LEAD:
                node.table.settle(flight, AGAIN)
            return Outcome(
                error=ReentrantLoadError(
                    f"the loader of {key!r} asks for {key!r} itself: load its value without the cache there"
                )
            )
        outcome = None
        if verdict == LEAD:
            flight.on_loop = port.on_loop
            leader = Leader(port, flight, loader, policy, ends)
            # A read ends with its caller, who keeps nobody waiting that way; a load outlives him.
            outcome = await leader.look_up() or await port.lead(flight, leader.flies_at, policy)
        if outcome is None:
            limit = _limit(port, policy, ends)
            may_wait = not (flight.on_loop and port.blocks_a_loop())
            if verdict == JOIN and mode == LOAD and may_wait and ends.soft >= limit:
                return Following(flight, port, limit - node.now(), _rest, loader, policy, ends, limit)
            outcome = await _join(port, flight, loader, policy, ends, limit, mode)
        if verdict == LEAD and outcome is AGAIN:
            ends = ends._replace(soft=math.inf)  # what interrupts the loader shall reach this caller's frame
        if outcome is not AGAIN:
            return outcome.followed() if verdict == JOIN else outcome


def _local(node: Node, key: str, value: Any, entry: Entry | None = None) -> Outcome:
    """The outcome of a value out of tier 1, where it stands in `entry`, or the present one if it is not known."""
    if node.births is None and not node.events:  # nobody asks for more than the value
        return answer(value).shared()
    entry = entry or node.table.peek(key)
    known = entry is not None and entry.value is value  # else it was replaced since
    outcome = node.old(entry).serves(node.now()) if entry is not None and known else answer(value)
    node.tell("", events.Hit, key, "local")  # the table has counted both
    if outcome.stale:
        node.tell("", events.StaleServed, key, "revalidating")
    return outcome.shared()


def _deadlines(node: Node, policy: Policy, mode: int) -> Deadlines:
    if policy.timeout is None and policy.soft_timeout is None:
        return PATIENT
    now = node.now()
    until = math.inf if policy.timeout is None else now + policy.timeout
    soft = math.inf if policy.soft_timeout is None or mode == FORCE else now + policy.soft_timeout
    return Deadlines(until, soft)


async def _due(port: Port, flight: Flight, loader: Loader, policy: Policy, ends: Deadlines) -> Outcome:
    """Serve the value and refresh it behind, or first, where the policy says so."""
    fly = Leader(port, flight, loader, policy).flies_at
    assert flight.seen is not None
    try:
        present = _local(port.node, flight.key, flight.seen.value, flight.seen)
        port.node.tell("", events.EarlyRefresh, flight.key)
    except BaseException:  # interrupted: nobody runs the flight
        port.node.table.settle(flight, AGAIN)
        raise
    if policy.refresh != "caller":
        behind(port, flight, fly)
        return present
    outcome = await port.lead(flight, fly, policy)
    if outcome is None:
        outcome = await _join(port, flight, loader, policy, ends, _limit(port, policy, ends))
    return present if outcome is AGAIN or isinstance(outcome.error, LoadTimeout) else outcome


def _limit(port: Port, policy: Policy, ends: Deadlines) -> float:
    """Until when to wait for somebody else's flight."""
    node = port.node
    # A load is given up max_load after it began, which may be some Redis time after this call did.
    brief = node.nested() or port.blocks_a_loop()
    return min(ends.until, node.now() + (policy.nested_wait if brief else policy.max_load + 2 * node.call_budget))


async def _rest(
    port: Port, flight: Flight, loader: Loader, policy: Policy, ends: Deadlines, limit: float
) -> Outcome | Following:
    """What a call gets that followed a flight until it was settled, or until its limit."""
    outcome = await _join(port, flight, loader, policy, ends, limit)
    if outcome is AGAIN:
        return await get_or_load(port, flight.key, loader, policy, ends=ends)
    return outcome.followed()


async def _join(
    port: Port, flight: Flight, loader: Loader, policy: Policy, ends: Deadlines, limit: float, mode: int = LOAD
) -> Outcome:
    """Wait for somebody else's flight, but not for ever; AGAIN if it was no load, and `mode` wants one."""
    node = port.node
    if flight.on_loop and port.blocks_a_loop():
        return await _bypass(port, flight.key, loader, policy, "bypass_loop")
    outcome = None
    if ends.soft < limit:
        for seconds in (ends.soft - node.now(), node.call_budget):  # Redis may not have been asked yet
            outcome = await port.join(flight, min(seconds, limit - node.now()))
            if outcome is not None:
                break
            if (old := meanwhile(node, flight, policy)) is not None:
                return old.shared()
    if outcome is None:
        outcome = await port.join(flight, limit - node.now())
    if outcome is not None:
        return outcome.shared() if mode == LOAD or flight.mode in (LOAD, FORCE) else AGAIN
    if limit == ends.until:
        return late(node, flight, policy)
    return await _bypass(port, flight.key, loader, policy, "bypass_nested")


async def _bypass(port: Port, key: str, loader: Loader, policy: Policy, counter: str) -> Outcome:
    """A load of one's own, without a lease: nobody shares it and nothing keeps it."""
    node = port.node
    node.count(counter)
    leader = Leader(port, Flight(key), loader, policy)
    try:
        outcome = await leader.run_loader(Lease(key, node.token(), math.inf))
        node.count("load_failures", 0 if outcome.error is None else 1)
        return outcome
    finally:
        node.table.settle(leader.flight, AGAIN)


async def get(port: Port, key: str, policy: Policy) -> Outcome:
    """What either tier holds; AGAIN if neither does. Starts no load and waits for none."""
    node = port.node
    now, table = node.now, node.table
    if not node.ready:
        await port.ready()
    verdict, held = table.probe(key, now(), 1.0, policy.stale_while_revalidate, 1.0, READ)
    if verdict == HIT:
        return _local(node, key, held)
    if verdict == JOIN and not (held.on_loop and port.blocks_a_loop()):
        outcome = await port.join(held, node.call_budget)
        if outcome is not None and outcome is not AGAIN:
            return outcome.shared()
    flight = _reading(port, key, verdict, held)
    try:
        sent, epoch = now(), table.stamp()
        try:
            found = await node.remote.read(port, key)
        except (RemoteDown, RemoteRefused):
            found = None
        return _ended(node, flight, found, policy, sent, epoch)
    except BaseException:
        table.settle(flight, AGAIN)
        raise


def _reading(port: Port, key: str, verdict: int, flight: Any) -> Flight:
    # Where somebody else's flight is under way, a read beside it fills nothing.
    reading: Flight = flight if verdict == LEAD else Flight(key, READ)
    reading.on_loop = port.on_loop
    return reading


def _ended(node: Node, flight: Flight, found: Found | None, policy: Policy, sent: float, epoch: int) -> Outcome:
    """Settle a reading flight with what was found (None: Redis could not be read)."""
    if found is None:
        node.count("unread")
        outcome, fill = unverified(node, None if flight.seen is None else node.old(flight.seen), policy), None
    else:
        outcome, fill = look(node, flight, found, policy, sent, epoch)
        if outcome is None:
            node.tell("misses", events.Miss, flight.key)
        else:
            node.tell("hits_remote", events.Hit, flight.key, "remote")
            if outcome.stale:
                node.tell("stale_served", events.StaleServed, flight.key, "revalidating")
    if outcome is None:
        outcome, fill = AGAIN, None
    node.settle(flight, outcome, fill)
    return outcome


async def get_many(port: Port, keys: list[str], policy: Policy) -> dict[str, Outcome]:
    """`get` of many keys in one round trip per batch; absent keys are left out."""
    node = port.node
    if not node.ready:
        await port.ready()
    found: dict[str, Outcome] = {}
    flights = []
    for key in keys:
        verdict, *rest = node.table.probe(key, node.now(), mode=READ, swr=policy.stale_while_revalidate)
        if verdict == HIT:
            found[key] = _local(node, key, rest[0])
        else:
            flights.append(_reading(port, key, verdict, rest[0]))
    for start in range(0, len(flights), BATCH):
        batch = flights[start : start + BATCH]
        try:
            outcomes = await _read_many(port, batch, policy)
        except BaseException:
            for flight in flights[start:]:
                node.table.settle(flight, AGAIN)
            raise
        found |= {flight.key: outcome for flight, outcome in zip(batch, outcomes, strict=True)}
    return {key: found[key] for key in keys if found[key] is not AGAIN}


async def _read_many(port: Port, flights: list[Flight], policy: Policy) -> list[Outcome]:
    node = port.node
    sent, epoch = node.now(), node.table.stamp()
    try:
        found: list[Any] = await node.remote.read_many(port, [flight.key for flight in flights])
    except (RemoteDown, RemoteRefused):
        found = [None] * len(flights)
    return [_ended(node, flight, each, policy, sent, epoch) for flight, each in zip(flights, found, strict=True)]


async def set_many(port: Port, values: dict[str, Any], policy: Policy) -> None:
    """Replace values in both tiers, in one round trip per batch; nothing is written if one can't be encoded."""
    node = port.node
    if not node.ready:
        await port.ready()
    fresh, hard = policy.ttl, policy.ttl + tail(policy)
    packed = []
    for key, value in values.items():
        record, size = None, 0
        id = node.token()[:8]
        if node.remote.shared:
            record, size = node.values.pack(key, value, id=id, fresh=fresh, hard=hard, delta=0.0)
        packed.append((key, value, id, record, size))
    for start in range(0, len(packed), BATCH):
        await _write_batch(port, packed[start : start + BATCH], policy)


async def _write_batch(port: Port, batch: list[Any], policy: Policy) -> None:
    node = port.node
    flights = []
    for key, _, id, _, _ in batch:
        flight = node.table.probe(key, node.now(), mode=WRITE)[1]
        flight.on_loop = port.on_loop
        node.table.writing(flight, id)
        flights.append(flight)
    sent, epoch = node.now(), node.table.stamp()
    done = False
    try:
        await node.remote.write_many(port, [(key, record) for key, _, _, record, _ in batch])
        done = True
    finally:
        # The fence, whatever came of it: what was loaded before this write fills nothing from here on.
        for flight, (key, value, id, _, size) in zip(flights, batch, strict=True):
            node.cut(key, id if done else b"")
            weight = node.weigh(value, size)
            verify = sent + policy.local_ttl if node.remote.shared else math.inf
            fresh, hard = sent + policy.ttl, sent + policy.ttl + tail(policy)
            fill = (value, fresh, hard, verify, 0.0, policy.beta, epoch, id, weight) if done else None
            node.settle(flight, Outcome(value, born=sent) if done else AGAIN, fill)


async def invalidate(port: Port, keys: list[str], soft: bool) -> None:
    """From its return on nobody gets what was loaded before, here or in any process that has heard of it."""
    node = port.node
    if not node.ready:
        await port.ready()
    try:
        for start in range(0, len(keys), BATCH):
            await node.remote.invalidate(port, keys[start : start + BATCH], soft)
    finally:
        for key in keys:
            node.cut(key, soft=soft)
