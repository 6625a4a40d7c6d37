"""How popular the entries of the LRU are.

Theory. A hit adds one to its slot's counter and does no more. Who asks for the popularity folds the counters into the
warmth of each entry: with half-life H, T seconds after the last look, it becomes

    warmth * f + hits * (1 - f) H / (T ln 2),    f = 2 ** (-T / H)

as if each of the hits had decayed since it came, the hits spread evenly over T. Under a steady rate r warmth tends to
r H / ln 2, and has reached 1 - 2 ** (-age / H) of it after counting for `age` seconds; so a rate is read off at once,
and its error is that of the number of hits. What came before the first look is not counted.

What of an entry's warmth the fleet was not told decays beside it. Who tells the fleet takes the most of that, and the
rest stays until it is among the most: so of each key less is untold than the least that was told.
"""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.math cimport INFINITY, M_LN2

from tiercache.local.lru cimport GHOSTS, LRU, Ghost, seek, text_hash

cdef float COLD = <float>1e-6  # less is nothing: before its numbers become slow to count with


cdef struct Fading:
    double kept                       # of the warmth that there was
    double gained                     # for each hit since


cdef inline Fading faded(double elapsed, double half_life) noexcept:
    cdef Fading fading
    elapsed = max(0.0, elapsed)
    fading.kept = 2.0 ** (-elapsed / half_life)
    fading.gained = (1.0 - fading.kept) * half_life / (elapsed * M_LN2) if fading.kept < 1.0 else 1.0
    return fading


@cython.final
@cython.no_gc
cdef class Hottest:
    """The hottest of what is offered, at most `most`; made before the table's lock is taken, read after it."""

    def __cinit__(self, Py_ssize_t most):
        self.most = max(0, most)
        self.keys = <PyObject**>PyMem_Malloc((self.most + 1) * sizeof(PyObject*))
        self.warmths = <double*>PyMem_Malloc((self.most + 1) * sizeof(double))
        if self.keys == NULL or self.warmths == NULL:
            raise MemoryError

    def __dealloc__(self):
        for n in range(self.held):
            Py_DECREF(<object>self.keys[n])
        PyMem_Free(self.keys)
        PyMem_Free(self.warmths)

    cdef int offer(self, PyObject* key, double warmth) noexcept:
        cdef Py_ssize_t place = self.held
        if self.held == self.most:
            if self.most == 0 or warmth <= self.warmths[place - 1]:
                return 0
            place -= 1
            Py_DECREF(<object>self.keys[place])
        else:
            self.held += 1
        while place > 0 and self.warmths[place - 1] < warmth:
            self.keys[place], self.warmths[place] = self.keys[place - 1], self.warmths[place - 1]
            place -= 1
        self.keys[place], self.warmths[place] = key, warmth
        Py_INCREF(<object>key)
        return 0

    cdef double least(self) noexcept:
        if self.held < self.most:
            return 0.0
        return self.warmths[self.held - 1] if self.most else INFINITY

    def gains(self):
        """(key, warmth), largest first."""
        return [(<object>self.keys[n], self.warmths[n]) for n in range(self.held)]

    def listed(self):
        """(key, hits per second, share of all hits), hottest first."""
        return [
            (<object>self.keys[n], self.warmths[n] * self.rate, min(1.0, self.warmths[n] / self.all_))
            for n in range(self.held)
        ]


@cython.final
@cython.no_gc
cdef class Warmth:
    """What is known of a table's popularity besides the warmth of each entry."""

    def __cinit__(self, double now, long long hits):
        self.started = self.looked_at = now
        self.counted = hits

    cdef double rate(self, LRU lru, unsigned int at, double now, double half_life) noexcept:
        # Hits per second of the entry in a slot; 0: of none.
        cdef Fading fading = faded(now - self.looked_at, half_life)
        cdef double per_warmth = self.per_warmth(now, half_life)
        if at == 0 or lru.warmth == NULL:
            return 0.0
        return (lru.warmth[at] * fading.kept + lru.hits[at] * fading.gained) * per_warmth

    cdef double per_warmth(self, double now, double half_life) noexcept:
        # Hits per second of a warmth of 1.
        cdef double reached = 1.0 - 2.0 ** (-max(0.0, now - self.started) / half_life)
        return M_LN2 / half_life / reached if reached > 0.0 else 0.0

    cdef int look(
        self, LRU lru, long long hits, double now, double half_life, Hottest hottest, bint unsent=False
    ) except -1:
        # Bring the warmth of everything up to now, and offer it, or what is unsent of it.
        cdef bint first = lru.warmth == NULL
        cdef Fading fading = faded(now - self.looked_at, half_life)
        cdef unsigned int at
        cdef Ghost* ghost
        cdef float* offered
        if first:
            lru.keep_warmth()
            if now == self.started:
                fading.gained = 0.0
        offered = lru.unsent if unsent else lru.warmth
        for at in range(1, lru.used + 1):
            fold(&lru.warmth[at], &lru.unsent[at], &lru.hits[at], fading.kept, fading.gained)
            if offered[at] > hottest.least() and lru.slots[at].key != NULL:
                hottest.offer(lru.slots[at].key, offered[at])
        for at in range(<unsigned int>GHOSTS):
            ghost = &lru.ghosts[at]
            if ghost.key != NULL:
                fold(&ghost.warmth, &ghost.unsent, &ghost.hits, fading.kept, fading.gained)
                if ghost.warmth == 0:
                    Py_DECREF(<object>ghost.key)
                    ghost.key = NULL
                elif (ghost.unsent if unsent else ghost.warmth) > hottest.least():
                    hottest.offer(ghost.key, ghost.unsent if unsent else ghost.warmth)
        self.all_ = self.all_ * fading.kept + (hits - self.counted) * fading.gained
        self.unsent = self.unsent * fading.kept + (hits - self.counted) * fading.gained
        self.counted, self.looked_at = hits, now
        hottest.all_ = self.unsent if unsent else self.all_
        hottest.rate = self.per_warmth(now, half_life)
        return 0

    cdef int sent(self, LRU lru, Hottest hottest) noexcept:
        # The fleet is told of these, and of all hits.
        cdef Py_ssize_t n
        cdef unsigned int at
        cdef PyObject* key
        for n in range(hottest.held):
            key = hottest.keys[n]
            at = seek(lru, key)
            if at:
                lru.unsent[at] = 0
            else:
                lru.ghosts[<unsigned int>text_hash(key) & (GHOSTS - 1)].unsent = 0
        self.unsent = 0
        return 0

    cdef int disown(self, LRU lru) noexcept:
        # What was counted so far is for another to tell.
        cdef unsigned int at
        for at in range(1, lru.used + 1):
            lru.unsent[at] = 0
        for at in range(<unsigned int>GHOSTS):
            lru.ghosts[at].unsent = 0
        self.unsent = 0
        return 0


cdef inline int fold(float* warmth, float* unsent, unsigned int* hits, double kept, double gained) noexcept:
    cdef double gain = hits[0] * gained
    warmth[0] = <float>(warmth[0] * kept + gain)
    unsent[0] = <float>(unsent[0] * kept + gain)
    if warmth[0] < COLD:
        warmth[0] = 0
    if unsent[0] < COLD:
        unsent[0] = 0
    hits[0] = 0
    return 0
