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
    says: str = ""  # which check notices it first, where that is the point
    also: tuple[str, str, str] | None = None  # file, old and new of a second change that belongs to it


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
            listen = slot is not None and node.listens()
            reply = self.reply = await node.remote.acquire(self.port, self.lease, self.known, listen)
""",
        """\
        sent, epoch = node.now(), node.table.stamp()
        try:
            listen = slot is not None and node.listens()
            reply = self.reply = await node.remote.acquire(self.port, self.lease, self.known, listen)
            if slot is not None:
                slot.clear()
""",
        seed=4105,
    ),
    Mutant(
        "no wake on a new epoch",
        "remote/inbox.py",
        """\
        self._slots.put_all(EPOCH)
""",
        "",
        seed=48,
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
        seed=7482,
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
        seed=723,
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
        seed=12928,
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
        seed=93,
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
        seed=25629,
    ),
    Mutant(
        "an entry of an earlier epoch is trusted",
        "local/table.pxd",
        "latest >= slot.ends.early or slot.ends.epoch != table.epoch:",
        "latest >= slot.ends.early:",
        seed=9332,
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
        seed=7613,
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
        seed=303,
    ),
    Mutant(
        "an early refresh with the id just read",
        "leader.py",
        """\
        if self.looked:
            return None
""",
        """\
        if self.flight.early:
            await self._again(self.read())
        if self.looked:
            return None
""",
        seed=1910,
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
        seed=2758,
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
        caught_by="tests/test_flow.py::test_a_message_of_another_lease_is_a_hint_to_look_again",
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
        caught_by="tests/test_flow.py::test_a_message_of_another_lease_is_a_hint_to_look_again",
    ),
    Mutant(
        "the join of a local flight is not bounded by nested_wait",
        "flow.py",
        """\
    return min(ends.until, node.now() + (policy.nested_wait if brief else policy.max_load + 2 * node.call_budget))
""",
        """\
    return min(ends.until, node.now() + policy.max_load + 2 * node.call_budget)
""",
        seed=15343,
    ),
    Mutant(
        "GET before PTTL without the clamp",
        "local/record.pyx",
        "min(<double>left, <double>record.hard_ms) / 1000",
        "<double>left / 1000",
        seed=209,
        says="S5:",
        also=(
            "remote/client.py",
            "            left, data = await self._calls.send(io, pack_read(name), 2)\n",
            """\
            [data] = await self._calls.call(io, [("GET", name)])
            [left] = await self._calls.call(io, [("PTTL", name)])
""",
        ),
    ),
    # Our own.
    Mutant(
        "the clamp is missing",
        "local/record.pyx",
        "min(<double>left, <double>record.hard_ms) / 1000",
        "<double>left / 1000",
        caught_by="tests/test_records.py",
    ),
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
        seed=122,
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
        seed=60,
    ),
    Mutant(
        "leases are not renewed",
        "remote/timer.py",
        """\
        if due:
            await self._renew(due)
""",
        "",
        seed=1,
    ),
    Mutant(
        "the wait for a lease has no end",
        "leader.py",
        """\
        limit = min(again_at, self.ends.until, give_up, max(now, soft))
""",
        """\
        limit = min(self.ends.until, give_up, max(now, soft))
""",
        seed=348,
    ),
    Mutant(
        "an invalidation does not cut",
        "port.py",
        """\
        self.table.cut(key, id)
""",
        "",
        seed=4,
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
        seed=28256,
    ),
    Mutant(
        "lifetimes are anchored where the answer came",
        "local/worth.pyx",
        """\
    fresh, hard, delta = record.ends(sent, found.remaining)
""",
        """\
    fresh, hard, delta = record.ends(now, record.hard_ms / 1000)
""",
        seed=0,
    ),
    Mutant(
        "a soft-invalid record is served",
        "local/worth.pyx",
        "    if record.soft_invalid or now >= hard",
        "    if now >= hard",
        seed=47,
    ),
    Mutant(
        "an entry is verified though nothing is heard",
        "local/table.pyx",
        """\
        return 0 if self.epoch == LOST else self.epoch
""",
        """\
        return self.epochs + 1 if self.epoch == LOST else self.epoch
""",
        caught_by="tests/test_table.py::test_epoch_zero_is_never_verified",
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
        caught_by="tests/test_peers.py",
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
        seed=6,
    ),
    Mutant(
        "the last caller to leave cancels nothing",
        "aio.py",
        """\
        if policy.on_abandon == "cancel" and policy.soft_timeout is None:
            flight.cancel = partial(self._abandon, task)
""",
        "",
        caught_by="tests/test_aio.py",
    ),
    Mutant(
        "the breaker never closes",
        "remote/breaker.py",
        """\
            was_open = self.open
            self.failures = 0
""",
        """\
            was_open = self.open
""",
        caught_by="tests/test_breaker.py",
    ),
    Mutant(
        "a forked child keeps its parent's leases",
        "remote/timer.py",
        """\
        self._held, self._abandoned, self._appointed, self._next, self._thread = {}, [], [], math.inf, None
""",
        """\
        self._abandoned, self._appointed, self._next, self._thread = [], [], math.inf, None
""",
        seed=350,
    ),
    Mutant(
        "a reader waits for a load's flight that was cut",
        "flow.py",
        """\
        if outcome is not AGAIN:
            return outcome.followed() if verdict == JOIN else outcome
""",
        """\
        return outcome
""",
        seed=433,
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
        seed=15437,
    ),
    Mutant(
        "a pushed value that looks over is not asked for",
        "leader.py",
        "        return await self._again(self.read(accept=True))\n\n    async def _cooldown",
        "        return taken\n\n    async def _cooldown",
        caught_by="tests/test_flow.py::test_a_load_longer_than_its_value_lives_is_one_load_all_the_same",
    ),
    Mutant(
        "a fenced load's failure is remembered",
        "leader.py",
        "return not self.flight.cut and self.node.failed(",
        "return self.node.failed(",
        caught_by="tests/test_stress.py::test_a_load_that_fails_after_an_invalidation_brings_no_old_value_back",
    ),
    Mutant(
        "a refresh by the caller knows no timeout",
        "flow.py",
        "        outcome = await _join(port, flight, loader, policy, ends, _limit(port, policy, ends))\n",
        "        outcome = await _join(port, flight, loader, policy, PATIENT, _limit(port, policy, PATIENT))\n",
        caught_by="tests/test_aio.py::test_a_refresh_by_the_caller_keeps_the_callers_timeout",
    ),
    Mutant(
        "an interrupted task leaves those behind it waiting",
        "local/waiter.pyx",
        "            loop.call_soon(end_all, loop, waiters)\n",
        "            pass\n",
        caught_by="tests/test_aio.py::test_a_task_that_ends_the_program_leaves_nobody_waiting",
    ),
    Mutant(
        "a dead awaitable serves again though somebody found it",
        "local/ready.pyx",
        "        if Py_REFCNT(made) == 1:\n",
        "        if True:\n",
        caught_by="tests/test_awaitables.py::test_one_that_somebody_found_is_theirs",
    ),
    Mutant(
        "the collector clears an awaitable that died with garbage and serves again",
        "local/ready.pyx",
        "@cython.no_gc_clear",
        "#",
        caught_by="tests/test_awaitables.py::test_the_collector_leaves_alone_what_serves_again",
    ),
    Mutant(
        "one connection is in use however long its trips are",
        "local/combining.pyx",
        "self.few = 1 if monotonic() - began < SHORT else FEW",
        "self.few = 1",
        caught_by="tests/test_combining.py::test_once_a_trip_is_long_two_connections_are_in_use",
    ),
    Mutant(
        "a large value's trip is waited for like a short one",
        "local/combining.pyx",
        " or monotonic() - self.began < SHORT",
        " or True",
        caught_by="tests/test_combining.py::test_nobody_waits_for_a_trip_that_is_longer_than_others",
    ),
    Mutant(
        "two connections are in use however short their trips are",
        "local/combining.pyx",
        "self.few = 1 if monotonic() - began < SHORT else FEW",
        "pass",
        caught_by="tests/test_combining.py::test_while_trips_are_short_one_connection_serves_all",
    ),
    Mutant(
        "an interrupted thread keeps the turn that it has just been given",
        "local/combining.pyx",
        "        if caller.leads:\n            close_all(self.give(",
        "        if False:\n            close_all(self.give(",
        caught_by="tests/test_combining.py::test_interrupts_at_any_moment_lose_neither_a_connection_nor_a_turn",
    ),
    Mutant(
        "an interrupted thread stays in line",
        "local/combining.pyx",
        "        if self.left_line(caller):\n            return\n        with",
        "        with",
        caught_by="tests/test_combining.py::test_interrupts_at_any_moment_lose_neither_a_connection_nor_a_turn",
    ),
    Mutant(
        "who was answered with an interrupted thread waits for it for ever",
        "local/combining.pyx",
        "                if each.gone:\n                    continue\n",
        "",
        caught_by="tests/test_combining.py::test_who_is_interrupted_keeps_nobody_that_was_sent_with_it",
    ),
    Mutant(
        "an interrupted thread lets nobody through whose turn is after its own",
        "local/combining.pyx",
        "            caller.pass_on()\n",
        "            pass\n",
        caught_by="tests/test_combining.py::test_interrupts_at_any_moment_lose_neither_a_connection_nor_a_turn",
    ),
    Mutant(
        "an interrupted thread forgets those for whom it sends",
        "local/combining.pyx",
        "        except BaseException as error:\n            failure = error\n",
        "        except Exception as error:\n            failure = error\n",
        caught_by="tests/test_combining.py::test_an_interrupt_of_who_sends_is_its_own",
    ),
    Mutant(
        "a lost connection is as many failures of Redis as there are calls on it",
        "local/combining.pyx",
        "                ours, oversized = True, False  # a lost",
        "                pass  # a lost",
        caught_by="tests/test_combining.py::test_a_failure_is_the_first_ones_whom_it_kept_waiting",
    ),
    Mutant(
        "answers that came before the connection was lost are lost with it",
        "remote/links.py",
        "            error.came = out\n            raise\n",
        "            raise\n",
        caught_by="tests/test_links.py::test_who_sends_for_others_loses_no_answer_that_came",
    ),
    Mutant(
        "who followed a flight that gave no answer gets what is none",
        "flow.py",
        "    if outcome is AGAIN:\n        return await get_or_load(port, flight.key",
        "    if False:\n        return await get_or_load(port, flight.key",
        caught_by="tests/test_aio.py::test_who_followed_a_load_that_ended_without_answer_asks_again",
    ),
    Mutant(
        "a refresh that is interrupted before it begins is under way for ever",
        "flow.py",
        """\
    except BaseException:  # interrupted: nobody runs the flight
        port.node.table.settle(flight, AGAIN)
""",
        """\
    except BaseException:
""",
        caught_by="tests/test_events.py::test_an_interrupt_in_a_callback_keeps_nobody_from_the_next_refresh",
    ),
    Mutant(
        "a refused load is kept nowhere",
        "leader.py",
        "        if error is None:\n            return loaded, None\n        value",
        "        if not isinstance(error, RemoteDown):\n            return loaded, None\n        value",
        caught_by="tests/test_bad_redis.py",
    ),
    Mutant(
        "an answer that nobody asked for is the next caller's",
        "aio_link.py",
        "        elif not self._waiting and self._reader.has_data():\n",
        "        elif False:\n",
        caught_by="tests/test_fuzz.py::test_what_nobody_asked_for_answers_nobody",
    ),
    Mutant(
        "a child keeps the sockets of its parent's loops",
        "aio.py",
        "            links.after_fork()\n",
        "            pass\n",
        caught_by="tests/chaos/test_forks_and_exits.py::test_workers_of_a_master_that_is_loading",
    ),
    Mutant(
        "a timeout serves what only tier 1 still has",
        "patience.py",
        "        return leader.old  # type: ignore[no-any-return]\n",
        """\
        entry = node.table.peek(flight.key)
        return None if entry is None else node.old(entry)
""",
        caught_by="tests/test_flow.py::test_a_timeout_serves_no_value_that_redis_no_longer_has",
    ),
    Mutant(
        "a failure serves what only tier 1 still has",
        "leader.py",
        "failure.old if self.flight.seen == failure.seen else self.old or failure.old",
        "self.old or failure.old",
        caught_by="tests/test_flow.py::test_a_failure_serves_no_value_that_redis_no_longer_has",
    ),
    # The scripts, as the simulator runs them.
    Mutant(
        "a lease is granted while another holds it",
        "testing/scripts.py",
        "    if holder is not None:\n        if inbox:",
        "    if holder is not None and inbox:\n        if inbox:",
        seed=14,
        says="S1:",
    ),
    Mutant(
        "whoever asks extends a lease",
        "testing/scripts.py",
        """\
    if db.hash(keys[0]).get(b"t") != argv[0]:
        return [b"LOST"]
""",
        "",
        seed=7,
        says="S6:",
    ),
    Mutant(
        "whoever asks ends a lease",
        "testing/scripts.py",
        """\
        return [b"LOST", 0]
""",
        """\
        db.delete(l)
        return [b"LOST", 0]
""",
        seed=71,
        says="S6:",
    ),
    Mutant(
        "a repeated acquire is told of itself",
        "testing/scripts.py",
        "    if holder == token:",
        "    if False:",
        says="S11:",
    ),
    Mutant(
        "a repeated failure has no pause",
        "testing/scripts.py",
        '        if kind == b"failed" and db.hash(f)',
        "        if False and db.hash(f)",
        seed=23,
        says="S11:",
    ),
    Mutant(
        "a repeated commit is refused",
        "testing/scripts.py",
        "    if _usable(stored) == id:",
        "    if False:",
        says="S11:",
    ),
    Mutant(
        "a swap is on the condition of what is read anew",
        "contrib/swap.py",
        'known = found.record.id if found.record is not None else b""',
        'known = getattr((await remote.read(port, key)).record, "id", b"")',
        seed=147,
        says="swaps",
    ),
    Mutant(
        "a swap on no condition",
        "testing/scripts.py",
        '            return [b"LOST"]\n        return then(',
        "        return then(",
        seed=147,
        says="swaps",
    ),
    Mutant(
        "a refresh ahead goes on when nobody asks any more",
        "ahead.py",
        """\
        elif self._is_hot(key, watched.policy):
""",
        """\
        else:
""",
        caught_by="tests/test_ahead.py",
    ),
    Mutant(
        "who asks during an early refresh waits for its loader",
        "local/table.pyx",
        """\
ends.epoch == self.epoch and (refreshing or now < ends.fresh + ends.verify):
""",
        """\
ends.epoch == self.epoch and now < ends.fresh + ends.verify:
""",
        caught_by="tests/test_ahead.py",
    ),
    Mutant(
        "a refresh ahead that failed is not tried again",
        "ahead.py",
        """\
                if leader.quiet:
""",
        """\
                if False:
""",
        caught_by="tests/test_ahead.py",
    ),
    Mutant(
        "a child keeps its parent's appointments",
        "process.py",
        """\
        node.ahead.after_fork()
""",
        "",
        caught_by="tests/test_processes.py",
    ),
    # Popularity.
    Mutant(
        "hits are told twice",
        "local/warmth.pyx",
        "                lru.unsent[at] = 0\n",
        "                pass\n",
        "tests/test_hot.py",
    ),
    Mutant("a child tells its parent's hits", "process.py", "self.reports.disown()", "pass", "tests/test_hot_fleet.py"),
    Mutant(
        "a report without an answer is repeated",
        "remote/client.py",
        "[command], retry=False)\n        if isinstance(reply, Refusal):",
        "[command])\n        if isinstance(reply, Refusal):",
        "tests/test_hot_fleet.py",
    ),
    Mutant(
        "a refused report is tried each time",
        "remote/popularity.py",
        "return REFUSED",
        "return PERIOD",
        "tests/test_hot_fleet.py",
    ),
]
