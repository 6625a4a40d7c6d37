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


MUTANTS = [
    # The list of protocol.md, section 6.
    Mutant(
        "the slot is cleared after the reply",
        "leader.py",
        """        if slot is not None:
            slot.clear()
        sent, epoch = node.now(), node.table.stamp()
        try:
            reply = await node.remote.acquire(self.port, self.lease, self.known, slot is not None and node.listens())
""",
        """        sent, epoch = node.now(), node.table.stamp()
        try:
            reply = await node.remote.acquire(self.port, self.lease, self.known, slot is not None and node.listens())
            if slot is not None:
                slot.clear()
""",
    ),
    Mutant("no wake on a new epoch", "remote/inbox.py", "        self._slots.put_all(EPOCH)\n", ""),
    Mutant(
        "the epoch wakes only those already waiting",
        "remote/inbox.py",
        "            waiting = [slot for slots in self._slots.values() for slot in slots]\n",
        "            waiting = [slot for slots in self._slots.values() for slot in slots if slot.wake is not None]\n",
    ),
    Mutant(
        "one slot per key instead of per flight",
        "remote/inbox.py",
        "            self._slots[key].append(slot)\n        return slot\n",
        "            if not self._slots[key]:\n                self._slots[key].append(slot)\n            return self._slots[key][0]\n",
    ),
    Mutant(
        "a bypass commits",
        "leader.py",
        "        if not isinstance(error, RemoteDown):\n            return loaded, None\n",
        "        return await self._commit(loaded.value, 0.01)\n",
    ),
    Mutant(
        "an unanswered acquire commits",
        "leader.py",
        "        except (RemoteDown, RemoteRefused) as error:\n            self._abandon()\n            if self.flight.early:\n",
        "        except (RemoteDown, RemoteRefused) as error:\n            if self.lease.attempt > 1:\n                return await self._load()\n            self._abandon()\n            if self.flight.early:\n",
    ),
    Mutant(
        "a retried acquire bears the same attempt",
        "remote/client.py",
        "        for last in (False, True):\n            lease.attempt += 1\n",
        "        lease.attempt += 1\n        for last in (False, True):\n",
    ),
    Mutant(
        "an entry is stamped with the epoch of its fill",
        "leader.py",
        "        seen = look(self.node, self.flight, found, self.policy, sent, epoch)\n",
        "        seen = look(self.node, self.flight, found, self.policy, sent, self.node.table.stamp())\n",
    ),
    Mutant(
        "a new epoch does not cut flights",
        "local/table.pyx",
        "            if verified:\n                self._cut_flights(dropped)\n",
        "            if verified:\n",
    ),
    Mutant(
        "a cut flight fills tier 1",
        "local/table.pyx",
        "        if flight.settled or self.flights.get(flight.key) is not flight:\n            return 0  # cut loose, or never the table's\n        del self.flights[flight.key]\n",
        "        if flight.settled:\n            return 0\n        if self.flights.get(flight.key) is flight:\n            del self.flights[flight.key]\n",
    ),
    Mutant(
        "an early refresh with the id just read",
        "leader.py",
        "        if not self.flight.early and self.node.remote.shared:\n            try:\n                read = await self.read()\n",
        "        if self.flight.early:\n            await self._again(self.read())\n        if not self.flight.early and self.node.remote.shared:\n            try:\n                read = await self.read()\n",
    ),
    Mutant(
        "no quiet after BUSY",
        "leader.py",
        "            case Busy() if slot is None:\n                node.count(\"busy\")\n                self.quiet = reply.left\n",
        "            case Busy() if slot is None:\n                node.count(\"busy\")\n",
    ),
    Mutant(
        "failed is believed from another lease",
        "leader.py",
        "        if message.holder != holder:\n",
        "        if message.holder != holder and message.kind != \"failed\":\n",
    ),
    Mutant(
        "a late pushed value is believed",
        "leader.py",
        "        if message.holder != holder:\n",
        "        if message.holder != holder and message.kind != \"ready\":\n",
    ),
    Mutant(
        "the join of a local flight is not bounded by nested_wait",
        "flow.py",
        "    patience = policy.nested_wait if node.nested() else policy.max_load + 2 * node.call_budget\n",
        "    patience = policy.max_load + 2 * node.call_budget\n",
    ),
    # Our own.
    Mutant(
        "a cancelled flight keeps its lease",
        "leader.py",
        "            table.settle(self.flight, AGAIN)\n            self._abandon()\n            raise\n",
        "            table.settle(self.flight, AGAIN)\n            raise\n",
    ),
    Mutant(
        "a cancelled flight is not settled",
        "leader.py",
        "            table.settle(self.flight, AGAIN)\n            self._abandon()\n            raise\n",
        "            self._abandon()\n            raise\n",
    ),
    Mutant("leases are not renewed", "remote/timer.py", "        if due:\n            await self._renew(due)\n", ""),
    Mutant(
        "the wait for a lease has no end",
        "leader.py",
        "        limit = min(again_at, self.until, give_up)\n",
        "        limit = min(self.until, give_up)\n",
    ),
    Mutant(
        "an invalidation does not cut",
        "port.py",
        "        self.table.cut(key, id)\n",
        "",
    ),
    Mutant(
        "what failed before an invalidation is remembered after it",
        "port.py",
        "        self.table.cut(key, id)\n        self.succeeded(key)\n",
        "        self.table.cut(key, id)\n",
    ),
    Mutant(
        "lifetimes are anchored where the answer came",
        "reading.py",
        "    hard = sent + found.remaining\n",
        "    hard = node.now() + record.hard_ms / 1000\n",
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
        "        return 0 if self.epoch == LOST else self.epoch\n",
        "        return self.epochs\n",
    ),
    Mutant(
        "tier 1 is trusted while the inbox is down",
        "process.py",
        "            down=lambda: self.node.table.cut_all(verified=False),\n",
        "            down=lambda: None,\n",
    ),
    Mutant(
        "a waiter is not registered",
        "remote/client.py",
        "        inbox = self.process.hex() if listen else \"\"\n",
        "        inbox = \"\"\n",
    ),
    Mutant(
        "the last caller to leave cancels nothing",
        "aio.py",
        "        if policy.on_abandon == \"cancel\":\n            flight.cancel = partial(self._abandon, task)\n",
        "",
    ),
    Mutant(
        "the breaker never closes",
        "remote/breaker.py",
        "            was_open = self.open\n            self._failures = 0\n",
        "            was_open = self.open\n",
    ),
    Mutant(
        "a load past max_load commits",
        "leader.py",
        "        if self.flight.settled:  # past max_load: its waiters have been told, the lease is gone\n            return loaded, None\n        delta",
        "        delta",
    ),
    Mutant(
        "a forked child keeps its parent's leases",
        "remote/timer.py",
        "        self._held, self._abandoned, self._thread = {}, [], None\n",
        "        self._abandoned, self._thread = [], None\n",
    ),
    Mutant(
        "a reader waits for a load's flight that was cut",
        "flow.py",
        "        if outcome is not AGAIN and loaded:\n            return outcome\n",
        "        if loaded:\n            return outcome\n",
    ),
    Mutant(
        "a value that was not stored is kept in tier 1",
        "leader.py",
        "        if not kept or not hard:\n",
        "        if not hard:\n",
    ),
]
