"""Tier 1 and the single-flight table, under one lock.

Theory. A read asks one question, `probe`, and gets one of five answers under one lock, so there is nothing
between a check and its act. Whoever was told LEAD or DUE owns a flight and ends it by exactly one `settle`,
which stores and then wakes. `cut` is the fence: it removes an entry and cuts the key's flight loose, so that a
value whose loading began before an invalidation fills nothing and meets no new caller. An entry is trusted while
its epoch is the table's; epoch 0 is an entry that nobody vouches for, LOST is the table's epoch while the inbox
is down, and the two never compare equal.

On a GIL build the lock is the GIL, so nothing between a check and its act may give it up: no Python code runs
there, and nothing is made that the garbage collector tracks (3.11 may collect at each allocation, and finalizers
run anybody's code). Flights, entries and dicts are made first, and what goes is handed out in `dropped`.

This file is longer than others because all that one lock guards is read together.
"""
cimport cython
from cpython.ref cimport PyObject
from libc.math cimport INFINITY

from tiercache.local.flight cimport Flight, wake
from tiercache.local.foreign cimport Foreign
from tiercache.local.lru cimport LRU, seek
from tiercache.local.store cimport Ends, Entry, before, entry_of, read_fill
from tiercache.local.warmth cimport Hottest, Warmth
from tiercache.local.xfetch cimport falls

cdef unsigned int LOST = 0xFFFFFFFF


@cython.final
cdef class Raises:
    """A cached value that is raised to its readers: a negative error."""

    def __cinit__(self, error):
        self.error = error


@cython.final
@cython.no_gc_clear  # a hit does not ask whether the store is there; cycles are broken in the store
cdef class Table:
    """The entries and the running flights of one cache in this process."""

    def __cinit__(self, Py_ssize_t max_entries=10_000, max_bytes=None, store=None):
        self.lru = LRU(max_entries if store is None else 1, max_bytes)
        self.store = self.lru if store is None else Foreign(store)
        self.guard = self.store.guard
        self.flights = {}
        self.counts = {}
        self.epoch = self.epochs = 1

    cdef int bump(self, str name, long long n=1) except -1:
        self.counts[name] = self.counts.get(name, 0) + n
        return 0

    def probe(self, str key not None, double now, double draw=1.0, double swr=0.0, double beta=1.0, int mode=0):
        """What a reader of `key` should do: see `Verdict`. `draw` is uniform in (0, 1]; times are seconds."""
        cdef list dropped = []
        cdef Flight spare = None
        cdef tuple answer
        while True:
            if self.store is self.lru:  # whose guard guards nothing, and is half of what this costs
                with cython.critical_section(self):
                    answer = self._probe(key, now, draw, swr, beta, mode, spare, dropped)
            else:
                with self.guard, cython.critical_section(self):
                    answer = self._probe(key, now, draw, swr, beta, mode, spare, dropped)
            if answer is not None:
                return answer
            spare = Flight(key, mode)

    cdef tuple _probe(
        self, str key, double now, double draw, double swr, double beta, int mode, Flight spare, list dropped
    ):
        # The answer, or None if it takes a flight and there is no `spare` one.
        cdef void* value = NULL
        cdef Ends* ends = self.store.find(key, &value)
        cdef Flight running = self.flights.get(key)
        cdef bint refreshing = running is not None and running.early and not running.settled
        if ends != NULL and now >= ends.fresh + ends.hard:
            self.store.take(key, dropped)
            ends = NULL
        if mode == AHEAD:
            if ends == NULL or ends.epoch != self.epoch or running is not None:
                return (<int>HIT, None)
            return self._serve(key, <object>value, ends, now, draw, beta, mode, spare)
        if ends != NULL and mode != FORCE and mode != WRITE and (now < ends.fresh or now < ends.fresh + swr):
            # The refresh under way has asked Redis about the entry: who looks again would only wait for the loader.
            if self._is_quiet(ends, now) or ends.epoch == self.epoch and (refreshing or now < ends.fresh + ends.verify):
                return self._serve(key, <object>value, ends, now, draw, beta, mode, spare)
        if mode == VERIFY:
            return (<int>HIT, None)
        if running is not None and not running.settled and mode != WRITE:
            if mode == READ and running.mode != READ:
                return (<int>ALONE, None)
            self.bump("joins")
            return (<int>JOIN, running)
        if spare is None:
            return None
        if running is not None:
            running.cut = True
            dropped.append(running)
        spare.seen = None if ends == NULL else entry_of(key, <object>value, ends)
        if not self.closed:
            self.flights[key] = spare
        return (<int>LEAD, spare)

    cdef tuple _serve(
        self, str key, object value, Ends* ends, double now, double draw, double beta, int mode, Flight spare
    ):
        # HIT or DUE for an entry that may answer; None as above.
        cdef bint stale = now >= ends.fresh
        cdef bint due = mode != READ and not self.closed and not self._is_quiet(ends, now)
        due = due and (mode == AHEAD or stale or falls(ends.fresh - now, beta * ends.delta, draw))
        due = due and key not in self.flights
        if due and spare is None:
            return None
        if mode != VERIFY and mode != AHEAD:
            self.hits += 1
            self.store.count_found()
        if stale and mode != AHEAD:
            self.bump("stale_served")
        if not due:
            return (<int>HIT, value)
        spare.mode, spare.early, spare.seen = LOAD, True, entry_of(key, value, ends)
        self.flights[key] = spare
        self.bump("early_refreshes")
        return (<int>DUE, value, spare)

    cdef bint _is_quiet(self, Ends* ends, double now) noexcept:
        return now < ends.fresh + ends.quiet and (ends.epoch == self.epoch or self.epoch == LOST)

    def settle(self, Flight flight not None, outcome, tuple fill=None):
        """End a flight: give its callers the outcome and, unless it was cut, store `fill`.

        `fill` is (value, fresh, hard, verify, delta, beta, epoch, id, weight) with monotonic ends. False if the
        flight was settled before. What a foreign store raises comes out of here, after everybody was woken.
        """
        cdef list dropped = []
        cdef dict wakers
        cdef Py_ssize_t dead
        cdef Entry entry = None
        cdef Ends ends
        try:
            if fill is not None:
                read_fill(fill, &ends)
                if isinstance(fill[0], Raises):
                    ends.early = 0.0
                entry = entry_of(flight.key, fill[0], &ends)
            if self.store is self.lru:
                with cython.critical_section(self):
                    self._store(flight, entry, dropped)
            else:
                with self.guard, cython.critical_section(self):
                    self._store(flight, entry, dropped)
        finally:
            wakers = flight.finish(outcome, dropped)
            dead = 0 if wakers is None else wake(wakers)
            if dead:
                self.count("dead_wakers", dead)
        return wakers is not None

    cdef int _store(self, Flight flight, Entry entry, list dropped) except -1:
        cdef Py_ssize_t evicted
        if flight.settled or self.flights.get(flight.key) is not flight:
            return 0  # cut loose, or never the table's
        del self.flights[flight.key]
        if entry is not None:
            evicted = self.store.put(entry, dropped)
            if evicted:
                self.bump("evictions", evicted)
        return 0

    def stamp(self):
        """The epoch for a request that is sent now: 0 while nothing can be verified."""
        return 0 if self.epoch == LOST else self.epoch

    def writing(self, Flight flight not None, bytes id not None):
        """Name the record that a write flight is writing, so that its own message does not cut it."""
        flight.writes = int.from_bytes(id, "big")

    def quiet(self, str key not None, double until, double now):
        """Serve the entry of `key` without coin and without Redis until then."""
        cdef Ends* ends
        cdef void* value = NULL
        with self.guard, cython.critical_section(self):
            ends = self.store.find(key, &value)
            if ends != NULL:
                ends.quiet = before(until - ends.fresh)
                if ends.epoch == self.epoch and now < ends.fresh and not isinstance(<object>value, Raises):
                    until = min(until, ends.fresh + min(ends.verify, ends.hard, <float>0.0))
                    ends.early = max(ends.early, until)

    def unquiet(self, str key not None):
        """Something happened to `key`: its next read takes the slow path and tosses the coin again."""
        cdef Ends* ends
        cdef void* value = NULL
        with self.guard, cython.critical_section(self):
            ends = self.store.find(key, &value)
            if ends != NULL:
                ends.early, ends.quiet = 0.0, -INFINITY

    def peek(self, str key not None):
        """The entry of `key` as it is, or None; changes nothing but its recency."""
        cdef Ends* ends
        cdef void* value = NULL
        with self.guard, cython.critical_section(self):
            ends = self.store.find(key, &value)
            return None if ends == NULL else entry_of(key, <object>value, ends)

    def cut(self, str key not None, bytes id not None=b""):
        """The fence: remove the entry and cut the running flight loose, unless they carry the record `id`."""
        cdef list dropped = []
        cdef Flight flight
        cdef Ends* ends
        cdef void* value = NULL
        cdef unsigned long long keep = int.from_bytes(id, "big")
        with self.guard, cython.critical_section(self):
            flight = self.flights.get(key)
            if flight is not None and (keep == 0 or flight.writes != keep):
                flight.cut = True
                del self.flights[key]
            ends = self.store.find(key, &value)
            if ends != NULL and (keep == 0 or ends.id != keep):
                self.store.take(key, dropped)

    def cut_all(self, bint verified=True):
        """A new epoch: cut every running flight; with `verified` False, trust nothing until the next one."""
        cdef list dropped = []
        with self.guard, cython.critical_section(self):
            if verified:
                self._cut_flights(dropped)
                self.epochs += 1
            self.epoch = self.epochs if verified else LOST

    def cut_flights(self):
        """Cut every running flight loose; the entries stay as they are."""
        cdef list dropped = []
        with self.guard, cython.critical_section(self):
            self._cut_flights(dropped)

    cdef int _cut_flights(self, list dropped) except -1:
        cdef dict none = {}
        cdef Flight flight
        dropped.append(self.flights)
        for flight in self.flights.values():
            flight.cut = True
        self.flights = none
        return 0

    def clear(self):
        """Drop every entry and cut every flight."""
        cdef list dropped = []
        with self.guard, cython.critical_section(self):
            self._cut_flights(dropped)
            self.store.clear(dropped)

    @property
    def counts_hits(self):
        """Are the hits of each entry counted? Not those of a foreign store."""
        return self.store is self.lru

    def hot(self, Py_ssize_t most, double now, double half_life):
        """The keys that are hit most often, at most so many: (key, hits per second, share of all hits), hottest first.

        Rates decay with `half_life`, in seconds; they are counted from the first call on. TypeError where the store
        is not the LRU, because the hits of another are not counted.
        """
        cdef Hottest hottest = Hottest(most)
        if not self.counts_hits:
            raise TypeError("the hits of a store of your own are not counted: hot() needs the built-in one")
        with self.guard, cython.critical_section(self):
            if self.warmth is None:
                self.warmth = Warmth(now, self.hits)
            self.warmth.look(self.lru, self.hits, now, half_life, hottest)
        return hottest.listed()

    def rate(self, str key not None, double now, double half_life):
        """Hits per second of one key, decayed like those of `hot`, which has to have been called once; else 0."""
        with self.guard, cython.critical_section(self):
            if self.warmth is None:
                return 0.0
            return self.warmth.rate(self.lru, seek(self.lru, <PyObject*>key), now, half_life)

    def gains(self, Py_ssize_t most, double now, double half_life):
        """What the fleet was not told yet: the warmth of all hits, and (key, warmth) of at most so many, largest first.

        Who asks tells it: it is not given again. Without hits since the last call there is nothing, (0.0, []).
        """
        cdef Hottest hottest = Hottest(most)
        with self.guard, cython.critical_section(self):
            if self.warmth is None:
                self.warmth = Warmth(now, self.hits)
            self.warmth.look(self.lru, self.hits, now, half_life, hottest, unsent=True)
            if hottest.all_ > 0.0:
                self.warmth.sent(self.lru, hottest)
        return (hottest.all_, hottest.gains()) if hottest.all_ > 0.0 else (0.0, [])

    def disown(self, double now, double half_life):
        """What was hit until now is for another process to tell."""
        cdef Hottest hottest = Hottest(0)
        with self.guard, cython.critical_section(self):
            if self.warmth is not None:
                self.warmth.look(self.lru, self.hits, now, half_life, hottest)
                self.warmth.disown(self.lru)

    def count(self, str name not None, long long n=1):
        """Add to a counter of `stats()`."""
        if self.store is self.lru:
            with cython.critical_section(self):
                self.bump(name, n)
        else:
            with self.guard, cython.critical_section(self):
                self.bump(name, n)

    def stats(self):
        """The counters, with `hits_local`, `entries` and `bytes`."""
        with self.guard, cython.critical_section(self):
            return {
                **self.counts,
                "hits_local": self.hits,
                "entries": self.store.count(),
                "bytes": self.store.weight(),
            }
