"""Tier 1 and the single-flight table, under one lock.

Theory. A read asks one question, `probe`, and gets one of five answers under one lock, so there is nothing
between a check and its act. Whoever was told LEAD or DUE owns a flight and ends it by exactly one `settle`,
which stores and hands over the wakers in one locked step. `cut` is the fence: it removes an entry and cuts the
key's flight loose, so that a value whose loading began before an invalidation fills nothing and meets no new
caller. An entry is trusted while its epoch is the table's; epoch 0 is an entry that nobody vouches for, LOST is
the table's epoch while the inbox is down, and the two never compare equal.
"""
cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.ref cimport PyObject

from threading import RLock

from tiercache.local.flight cimport Flight
from tiercache.local.lru cimport LRU, Entry
from tiercache.local.xfetch cimport WINDOW, falls

cdef unsigned int LOST = 0xFFFFFFFF


@cython.final
cdef class Raises:
    """A cached value that is raised to its readers: a negative error."""

    def __cinit__(self, error):
        self.error = error


@cython.final
cdef class Unguarded:
    # The LRU runs no Python code under the table's critical section, so it needs no second lock.
    def __enter__(self):
        pass

    def __exit__(self, *exc):
        pass


@cython.final
cdef class Table:
    """The entries and the running flights of one cache in this process."""

    def __cinit__(self, Py_ssize_t max_entries=10_000, max_bytes=None, store=None):
        self.lru = LRU(max_entries, max_bytes)
        self.store = store
        self.guard = Unguarded() if store is None else RLock()
        self.flights = {}
        self.counts = {}
        self.epoch = self.epochs = 1

    # The store: the LRU, or whatever the user gave.

    cdef Entry find(self, str key):
        if self.store is not None:
            return self.store.get(key)
        cdef PyObject* p = self.lru.find(key)
        if p == NULL:
            return None
        self.lru.touch(p)
        return <Entry>p

    cdef object take(self, str key):
        if self.store is not None:
            return self.store.pop(key, None)
        return self.lru.take(key)

    cdef object put(self, Entry entry):
        if self.store is None:
            evicted = self.lru.put(entry)
            if evicted:
                self.bump("evictions", len(evicted))
            return evicted
        before = len(self.store) + 1
        try:
            self.store[entry.key] = entry
        except ValueError:  # "value too large": cachetools' word for an entry above the whole bound
            before = len(self.store) + 1
        if before > len(self.store):
            self.bump("evictions", before - len(self.store))

    cdef void bump(self, str name, long long n=1) except *:
        self.counts[name] = self.counts.get(name, 0) + n

    # The hit: a borrowed value, or NULL for whatever needs a second look.

    cdef PyObject* hit(self, str key, double now):
        cdef PyObject* p = PyDict_GetItemWithError(self.lru.entries, key)
        if p == NULL or now >= (<Entry>p).early or (<Entry>p).epoch != self.epoch:
            return NULL
        self.lru.touch(p)
        self.hits += 1
        return <PyObject*>(<Entry>p).value

    # The seam.

    def probe(self, str key, double now, double draw=1.0, double swr=0.0, double beta=1.0, int mode=LOAD):
        """What a reader of `key` should do: see `Verdict`. `draw` is uniform in (0, 1]; times are seconds."""
        cdef list dropped = []
        with self.guard, cython.critical_section(self):
            return self._probe(key, now, draw, swr, beta, mode, dropped)

    cdef tuple _probe(self, str key, double now, double draw, double swr, double beta, int mode, list dropped):
        cdef Flight flight
        cdef Entry entry = self.find(key)
        cdef tuple answer
        if entry is not None and now >= entry.fresh + entry.hard_:
            dropped.append(self.take(key))
            entry = None
        if entry is not None and (mode <= READ or mode == VERIFY):
            answer = self.serve(entry, now, draw, swr, beta, mode)
            if answer is not None:
                return answer
        if mode == VERIFY:
            return (HIT, None)
        flight = self.flights.get(key)
        if flight is not None:
            if mode == READ and flight.mode != READ:
                return (ALONE, None)
            if mode != WRITE:
                self.bump("joins")
                return (JOIN, flight)
            flight.cut = True
        flight = Flight(key, mode, False, entry)
        if not self.closed:
            self.flights[key] = flight
        return (LEAD, flight)

    cdef tuple serve(self, Entry entry, double now, double draw, double swr, double beta, int mode):
        # HIT or DUE where the entry may answer a caller whose policy allows `swr` seconds of staleness.
        cdef bint quiet, stale
        cdef Flight flight
        quiet = now < entry.fresh + entry.quiet_ and (entry.epoch == self.epoch or self.epoch == LOST)
        stale = now >= entry.fresh
        if now >= entry.fresh + swr and stale:
            return None
        if not quiet and (entry.epoch != self.epoch or now >= entry.fresh + entry.verify_):
            return None
        if mode != VERIFY:
            self.hits += 1
        if mode != READ and not quiet and (stale or falls(entry.fresh - now, beta * entry.delta, draw)):
            if entry.key not in self.flights and not self.closed:
                flight = Flight(entry.key, LOAD, True, entry)
                self.flights[entry.key] = flight
                self.bump("early_refreshes")
                if stale:
                    self.bump("stale_served")
                return (DUE, entry.value, flight)
        if stale:
            self.bump("stale_served")
        return (HIT, entry.value)

    def settle(self, Flight flight, outcome, tuple fill=None):
        """End a flight: give its callers the outcome and, unless it was cut, store `fill`.

        `fill` is (value, fresh, hard, verify, delta, beta, epoch, id, weight) with monotonic ends. False if the
        flight was settled before.
        """
        cdef list dropped = [], wakers
        with self.guard, cython.critical_section(self):
            self._store(flight, fill, dropped)
        wakers = flight.finish(outcome)
        if wakers is None:
            return False
        for waker in wakers:
            try:
                waker()
            except Exception:  # a closed loop: nobody is left to wake there
                self.bump("dead_wakers")
        return True

    cdef void _store(self, Flight flight, tuple fill, list dropped) except *:
        cdef Entry entry
        cdef double early, fresh, verify
        if flight.settled or self.flights.get(flight.key) is not flight:
            return  # cut loose, or never the table's
        del self.flights[flight.key]
        if fill is None:
            return
        value, fresh, hard, verify, delta, beta, epoch, id, weight = fill
        early = 0.0 if isinstance(value, Raises) else min(verify, fresh - WINDOW * <double>beta * <double>delta)
        entry = Entry(flight.key, value, early, fresh, hard, verify, delta, epoch, id, min(weight, 0xFFFFFFFF))
        dropped.append(self.take(flight.key))
        dropped.append(self.put(entry))

    def stamp(self):
        """The epoch for a request that is sent now: 0 while nothing can be verified."""
        return 0 if self.epoch == LOST else self.epoch

    def writing(self, Flight flight, bytes id):
        """Name the record that a write flight is writing, so that its own message does not cut it."""
        flight.writes = int.from_bytes(id, "big")

    def quiet(self, str key, double until, double now):
        """Serve the entry of `key` without coin and without Redis until then."""
        cdef Entry entry
        with self.guard, cython.critical_section(self):
            entry = self.find(key)
            if entry is not None:
                entry.quiet_ = <float>(until - entry.fresh)
                if entry.epoch == self.epoch and now < entry.fresh and not isinstance(entry.value, Raises):
                    entry.early = min(until, entry.fresh + entry.verify_, entry.fresh)

    def unquiet(self, str key):
        """Something happened to `key`: its next read takes the slow path and tosses the coin again."""
        cdef Entry entry
        with self.guard, cython.critical_section(self):
            entry = self.find(key)
            if entry is not None:
                entry.quiet_ = -float("inf")
                entry.early = 0.0

    def peek(self, str key):
        """The entry of `key` or None; changes nothing but its recency."""
        with self.guard, cython.critical_section(self):
            return self.find(key)

    def cut(self, str key, bytes id=b""):
        """The fence: remove the entry and cut the running flight loose, unless they carry the record `id`."""
        cdef Flight flight
        cdef Entry entry
        cdef unsigned long long keep = int.from_bytes(id, "big")
        cdef object dropped = None
        with self.guard, cython.critical_section(self):
            entry = self.find(key)
            if entry is not None and (keep == 0 or entry.id_ != keep):
                dropped = self.take(key)
            flight = self.flights.get(key)
            if flight is not None and (keep == 0 or flight.writes != keep):
                flight.cut = True
                del self.flights[key]

    def cut_all(self, bint verified=True):
        """A new epoch: cut every running flight; with `verified` False, trust nothing until the next one."""
        with self.guard, cython.critical_section(self):
            if not verified:
                self.epoch = LOST
                return
            self.epochs += 1
            self.epoch = self.epochs
        self.cut_flights()

    def cut_flights(self):
        """Cut every running flight loose; the entries stay as they are."""
        cdef Flight flight
        with self.guard, cython.critical_section(self):
            for flight in self.flights.values():
                flight.cut = True
            self.flights = {}

    def clear(self):
        """Drop every entry and cut every flight."""
        cdef object dropped
        with self.guard, cython.critical_section(self):
            if self.store is not None:
                dropped = dict(self.store)
                self.store.clear()
            else:
                dropped = self.lru.clear()
        self.cut_flights()

    def count(self, str name, long long n=1):
        """Add to a counter of `stats()`."""
        with self.guard, cython.critical_section(self):
            self.bump(name, n)

    def stats(self):
        """The counters, with `hits_local`, `entries` and `bytes`."""
        with self.guard, cython.critical_section(self):
            stats = dict(self.counts)
            stats["hits_local"] = self.hits
            if self.store is not None:
                stats["entries"] = len(self.store)
                stats["bytes"] = sum(entry.weight for entry in self.store.values())
            else:
                stats["entries"] = len(self.lru.entries)
                stats["bytes"] = self.lru.bytes_
            return stats
