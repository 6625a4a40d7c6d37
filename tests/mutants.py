"""Protections taken out, one line or so each; every one must be noticed by what `caught_by` names.

"simulator": seeds of tests/simulate.py, up to a bound. Else the tests to run.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str  # below tiercache/
    old: str
    new: str
    caught_by: str = "simulator"
    seed: int = 0  # that noticed it last time: saves the search


MUTANTS = [
    # The list of protocol.md, section 6.
    Mutant(
        "the slot is cleared after the reply",
        "leader.py",
        """\
        if slot is not None:
            slot.clear()
        sent, epoch = node.now(), node.table.stamp()
        try:
            reply = await node.remote.acquire(self.port, self.lease, self.known, slot is not None and node.listens())
""",
        """\
        sent, epoch = node.now(), node.table.stamp()
        try:
            reply = await node.remote.acquire(self.port, self.lease, self.known, slot is not None and node.listens())
            if slot is not None:
                slot.clear()
""",
    ),
    Mutant(
        "no wake on a new epoch",
        "remote/inbox.py",
        """\
        self._slots.put_all(EPOCH)
""",
        "",
    ),
    Mutant(
        "the epoch wakes only those already waiting",
        "remote/inbox.py",
        """\
            waiting = [slot for slots in self._slots.values() for slot in slots]
""",
        """\
            waiting = [slot for slots in self._slots.values() for slot in slots if slot.wake is not None]
""",
    ),
    Mutant(
        "one slot per key instead of per flight",
        "remote/inbox.py",
        """\
            self._slots[key].append(slot)
        return slot
""",
        """\
            if not self._slots[key]:
                self._slots[key].append(slot)
            return self._slots[key][0]
""",
    ),
    Mutant(
        "a bypass commits",
        "leader.py",
        """\
        if error is None:
            return loaded, None
""",
        """\
        return await self._commit(loaded.value, 0.01)
""",
    ),
    Mutant(
        "an unanswered acquire commits",
        "leader.py",
        """\
        except (RemoteDown, RemoteRefused) as error:
            self._abandon()
            if self.flight.early:
""",
        """\
        except (RemoteDown, RemoteRefused) as error:
            if self.lease.attempt > 1:
                return await self._load()
            self._abandon()
            if self.flight.early:
""",
    ),
    Mutant(
        "a retried acquire bears the same attempt",
        "remote/client.py",
        """\
        for last in (False, True):
            lease.attempt += 1
""",
        """\
        lease.attempt += 1
        for last in (False, True):
""",
    ),
    Mutant(
        "an entry of an earlier epoch is trusted",
        "local/table.pyx",
        "now >= (<Entry>p).early or (<Entry>p).epoch != self.epoch:",
        "now >= (<Entry>p).early:",
    ),
    Mutant(
        "a new epoch does not cut flights",
        "local/table.pyx",
        """\
            if verified:
                self._cut_flights(dropped)
""",
        """\
            if verified:
""",
    ),
    Mutant(
        "a cut flight fills tier 1",
        "local/table.pyx",
        """\
        if flight.settled or self.flights.get(flight.key) is not flight:
            return 0  # cut loose, or never the table's
        del self.flights[flight.key]
""",
        """\
        if flight.settled:
            return 0
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]
""",
    ),
    Mutant(
        "an early refresh with the id just read",
        "leader.py",
        """\
        if not self.flight.early and self.node.remote.shared:
            try:
                read = await self.read()
""",
        """\
        if self.flight.early:
            await self._again(self.read())
        if not self.flight.early and self.node.remote.shared:
            try:
                read = await self.read()
""",
    ),
    Mutant(
        "no quiet after BUSY",
        "leader.py",
        """\
            case Busy() if slot is None:
                node.count("busy")
                self.quiet = reply.left
""",
        """\
            case Busy() if slot is None:
                node.count("busy")
""",
    ),
    Mutant(
        "failed is believed from another lease",
        "leader.py",
        """\
        if message.holder != holder:
""",
        """\
        if message.holder != holder and message.kind != "failed":
""",
    ),
    Mutant(
        "a late pushed value is believed",
        "leader.py",
        """\
        if message.holder != holder:
""",
        """\
        if message.holder != holder and message.kind != "ready":
""",
    ),
    Mutant(
        "the join of a local flight is not bounded by nested_wait",
        "flow.py",
        """\
    patience = policy.nested_wait if node.nested() else policy.max_load + 2 * node.call_budget
""",
        """\
    patience = policy.max_load + 2 * node.call_budget
""",
    ),
    # Our own.
    Mutant(
        "a cancelled flight keeps its lease",
        "leader.py",
        """\
            table.settle(self.flight, AGAIN)
            self._abandon()
            raise
""",
        """\
            table.settle(self.flight, AGAIN)
            raise
""",
    ),
    Mutant(
        "a cancelled flight is not settled",
        "leader.py",
        """\
            table.settle(self.flight, AGAIN)
            self._abandon()
            raise
""",
        """\
            self._abandon()
            raise
""",
    ),
    Mutant(
        "leases are not renewed",
        "remote/timer.py",
        """\
        if due:
            await self._renew(due)
""",
        "",
    ),
    Mutant(
        "the wait for a lease has no end",
        "leader.py",
        """\
        limit = min(again_at, self.until, give_up)
""",
        """\
        limit = min(self.until, give_up)
""",
    ),
    Mutant(
        "an invalidation does not cut",
        "port.py",
        """\
        self.table.cut(key, id)
""",
        "",
    ),
    Mutant(
        "what failed before an invalidation is remembered after it",
        "port.py",
        """\
        self.table.cut(key, id)
        self.succeeded(key)
""",
        """\
        self.table.cut(key, id)
""",
    ),
    Mutant(
        "lifetimes are anchored where the answer came",
        "reading.py",
        """\
    hard = sent + found.remaining
""",
        """\
    hard = node.now() + record.hard_ms / 1000
""",
    ),
    Mutant(
        "a soft-invalid record is served",
        "reading.py",
        "    if record.soft_invalid or now >= hard",
        "    if now >= hard",
    ),
    Mutant(
        "an entry is verified though nothing is heard",
        "local/table.pyx",
        """\
        return 0 if self.epoch == LOST else self.epoch
""",
        """\
        return self.epochs
""",
    ),
    Mutant(
        "tier 1 is trusted while the inbox is down",
        "process.py",
        """\
            down=lambda: self.node.table.cut_all(verified=False),
""",
        """\
            down=lambda: None,
""",
    ),
    Mutant(
        "a waiter is not registered",
        "remote/client.py",
        """\
        inbox = self.process.hex() if listen else ""
""",
        """\
        inbox = ""
""",
    ),
    Mutant(
        "the last caller to leave cancels nothing",
        "aio.py",
        """\
        if policy.on_abandon == "cancel":
            flight.cancel = partial(self._abandon, task)
""",
        "",
    ),
    Mutant(
        "the breaker never closes",
        "remote/breaker.py",
        """\
            was_open = self.open
            self._failures = 0
""",
        """\
            was_open = self.open
""",
    ),
    Mutant(
        "a forked child keeps its parent's leases",
        "remote/timer.py",
        """\
        self._held, self._abandoned, self._thread = {}, [], None
""",
        """\
        self._abandoned, self._thread = [], None
""",
    ),
    Mutant(
        "a reader waits for a load's flight that was cut",
        "flow.py",
        """\
        if outcome is not AGAIN and loaded:
            return outcome
""",
        """\
        if loaded:
            return outcome
""",
    ),
    Mutant(
        "a value that was not stored is kept in tier 1",
        "leader.py",
        """\
        if not kept or not hard:
""",
        """\
        if not hard:
""",
    ),
]
