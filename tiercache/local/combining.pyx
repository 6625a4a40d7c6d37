"""A pool of connections for threads: who finds none free waits in line, and who gets the next one sends for the line.

This is flat combining (Hendler, Incze, Shavit, Tzafrir, SPAA 2010). Sixteen threads that read in turn hand the
interpreter's lock around at each send and receive; one of them that reads for several hands it around once.

No Python code runs between two steps here but in a connection's making, exchange and closing: an interrupt comes out
of these, or of a wait, and neither a connection nor anybody's turn is lost by it.

This file is longer than others because who waits, who sends and who is told share one state, and are read together.
"""
cimport cython

from tiercache.local.clock cimport monotonic
from tiercache.local.turnstile cimport Turn

cdef double PATIENCE = 0.002  # seconds in line, after which one goes by oneself if there may be more connections
cdef double SHORT = 0.0005  # seconds of a trip for which everybody can wait
cdef str CLOSED = "the cache is closed"

cdef enum:
    FEW = 2  # connections in use at once, see `few`
    MOST = 32  # calls in one write
    ROOM = 65_536  # bytes of one write, if it is not one call's alone


@cython.final
cdef class Caller(Turn):
    """One call: what it asks, and what comes of it. Its turn comes when it shall lead, or has its answer."""

    cdef bytes packed
    cdef Py_ssize_t replies
    cdef double seconds
    cdef bint leads  # with `link`; without one it shall make it
    cdef object link
    cdef list out
    cdef str why  # there is no answer
    cdef bint oversized, ours
    cdef bint told  # its turn comes after somebody's who was told with it
    cdef bint gone  # it was interrupted while somebody asked for it


cdef class CombiningPool:
    """At most so many connections, made when they are needed. `error` is what `exchange` raises.

    A subclass has `_make()`, which connects; a connection has `exchange(packed, replies, seconds, limit)`, `demoted`
    and `close()`. Whatever of this raises an `error` says by its attributes what the others in the line shall know.
    """

    cdef object error
    cdef list idle, line
    cdef Py_ssize_t most, limit
    # Whoever finds so many in use waits in line first, and so there are calls to combine. While trips are short it is
    # one, for the largest writes; then nobody waits long.
    cdef readonly Py_ssize_t few
    cdef double began  # when the trip of the only connection in use did
    cdef readonly Py_ssize_t used  # connections in use, or being made
    cdef readonly bint closed

    # What is guarded by `critical_section` makes no objects that the garbage collector could start at: with it
    # other threads may run.

    def __init__(self, type error not None, Py_ssize_t limit, Py_ssize_t most):
        self.error, self.limit, self.most = error, limit, most
        self.forget()

    @property
    def waiting(self):
        """Calls in line."""
        return len(self.line)

    def exchange(self, bytes packed not None, Py_ssize_t replies, double timeout):
        """Send and read that many replies; raises Unanswered.

        `timeout` bounds the wait for a connection and, once there is one, the call, which gets more for large data.
        """
        cdef Caller caller
        link = self.free()
        if link is not None:  # most calls are alone, and done here
            try:
                out = link.exchange(packed, replies, timeout, self.limit)
            except BaseException:
                close_all(self.give(link, True))
                raise
            if out is not None:
                if link.demoted or not self.put_back(link):
                    close_all(self.give(link, link.demoted))
                return out
        caller = Caller.__new__(Caller)
        caller.packed, caller.replies, caller.seconds = packed, replies, timeout
        if link is not None:  # it had ended since it was used last
            caller.leads = True
            try:
                link.close()
            except BaseException:
                self.give(None, False)
                raise
        elif self.must_wait(caller):
            self.wait(caller)
        if caller.leads:
            self.lead(caller)
        if caller.out is None:
            raise self.error(caller.why, oversized=caller.oversized, ours=caller.ours)
        return caller.out

    cdef free(self):
        # A connection that may be used at once. (Who is in line gets it next.)
        with cython.critical_section(self):
            if self.idle and not self.closed and not self.crowded():
                self.used += 1
                self.begin()
                return self.idle.pop()
            return None

    cdef bint crowded(self) noexcept:
        # Does who comes now wait for a connection in use? Not for the only one, if its trip is longer than others.
        if self.used < min(self.few, self.most):
            return False
        return self.used >= min(FEW, self.most) or monotonic() - self.began < SHORT

    cdef double begin(self) noexcept:
        # When a trip begins: now. Who comes meanwhile looks at it, if it is the only one.
        cdef double now = monotonic()
        if self.used == 1:
            self.began = now
        return now

    cdef bint put_back(self, link) except -1:
        # If nobody waits for it.
        with cython.critical_section(self):
            if self.line or self.closed:
                return False
            self.used -= 1
            self.idle.append(link)
            return True

    cdef bint must_wait(self, Caller caller) except -1:
        with cython.critical_section(self):
            if self.closed:
                caller.why, caller.ours = CLOSED, True
                return False
            if self.crowded():
                self.line.append(caller)
                return True
            self.place(caller)
            return False

    cdef wait(self, Caller caller):
        try:
            if caller.take(min(caller.seconds, PATIENCE)):
                return
            if self.overtakes(caller):
                return
            if caller.take(caller.seconds - PATIENCE):
                return
            if self.left_line(caller):
                caller.why, caller.ours = "every connection is busy", True
            else:  # at this moment its turn has come, or it is being answered
                caller.take(float("inf"))
        except BaseException:
            self.give_up(caller)
            raise

    cdef give_up(self, Caller caller):
        # Interrupted: what it was given, or is to hand on, goes to others.
        if self.left_line(caller):
            return
        with cython.critical_section(self):
            caller.gone = True
        if caller.leads:
            close_all(self.give(caller.link, False))
        elif caller.told and not caller.taken:
            caller.pass_on()

    cdef void place(self, Caller caller):
        # One more connection in use, an idle one if there is one; called in a critical section.
        self.used += 1
        self.begin()
        caller.leads = True
        if self.idle:
            caller.link = self.idle.pop()

    cdef bint overtakes(self, Caller caller) except -1:
        # Out of the line, if there may be one more connection in use; else it keeps its place there.
        with cython.critical_section(self):
            if self.used >= self.most or not self.left_line(caller):
                return False
            self.place(caller)
            return True

    cdef bint left_line(self, Caller caller) except -1:
        cdef Py_ssize_t at
        with cython.critical_section(self):
            for at in range(len(self.line)):
                if self.line[at] is caller:
                    del self.line[at]
                    return True
            return False

    cdef lead(self, Caller caller):
        cdef list batch = [caller], replies = None, dead
        cdef Caller each
        cdef double began
        failure = None
        try:
            while replies is None:
                if caller.link is None:
                    caller.link = self._make()
                began = self.begin()
                replies = self.ask(batch, caller.link)
                self.few = 1 if monotonic() - began < SHORT else FEW
                if replies is None:  # the connection ended since it was used last
                    link, caller.link = caller.link, None
                    link.close()
        except BaseException as error:
            failure = error
        link, caller.link = caller.link, None
        dead = self.give(link, failure is not None or link.demoted)
        self.tell(batch, replies, failure)
        each = self.in_turn(batch)
        if each is not None:
            each.come()
        close_all(dead)
        if failure is not None and not isinstance(failure, self.error):
            raise failure

    cdef list ask(self, list batch, link):
        # The replies to the batch, which who waits in line joins.
        cdef Caller each
        cdef Py_ssize_t size = 0, replies = 0
        cdef double seconds = 0.0
        with cython.critical_section(self):
            for each in batch:
                size += len(each.packed)
            while self.line and len(batch) < MOST:
                each = self.line[0]
                size += len(each.packed)
                if size > ROOM:
                    break
                batch.append(self.line.pop(0))
        for each in batch:
            replies += each.replies
            seconds = max(seconds, each.seconds)
        packed = (<Caller>batch[0]).packed if len(batch) == 1 else b"".join([(<Caller>one).packed for one in batch])
        return link.exchange(packed, replies, seconds, self.limit)

    cdef tell(self, list batch, list replies, failure):
        # Each gets its replies, also those that came before the failure; that is the first one's whom it kept waiting.
        cdef Caller each
        cdef Py_ssize_t at = 0
        cdef bint ours = True, oversized = False
        cdef str why = "a call in whose write it was sent was interrupted"
        if failure is not None:
            replies = []
            if isinstance(failure, self.error):
                replies, why, ours, oversized = failure.came, str(failure), failure.ours, failure.oversized
        for each in batch:
            if at + each.replies <= len(replies):
                each.out = replies[at:at + each.replies]
            else:
                each.why, each.ours, each.oversized = why, ours, oversized
                ours, oversized = True, False  # a lost connection is one failure of Redis, however many wait
            at += each.replies

    cdef Caller in_turn(self, list batch):
        # All but the first of them shall go on, one after the other. Whose turn it is then.
        cdef Caller each, first = None, last = None
        cdef Py_ssize_t at
        with cython.critical_section(self):
            for at in range(1, len(batch)):
                each = batch[at]
                if each.gone:
                    continue
                each.told = True
                if last is None:
                    first = each
                else:
                    last.lead_to(each)
                last = each
        return first

    cdef list give(self, link, bint lost):
        # To the first in line: a connection, or without one the place of one. What is to be closed.
        cdef list dead = [], none = []
        cdef Caller first = None
        with cython.critical_section(self):
            if link is not None and (lost or self.closed):
                dead.append(link)
                link = None
                if lost:  # they may have died together
                    dead += self.idle
                    self.idle = none
            if self.line:
                first = self.line.pop(0)
                first.link, first.leads = link, True
            else:
                self.used -= 1
                if link is not None:
                    self.idle.append(link)
        if first is not None:
            first.come()
        return dead

    def close(self):
        """Close the connections, those in use once they are given back; who waits for one waits no longer."""
        cdef Caller each
        cdef list idle = [], line = []
        with cython.critical_section(self):
            self.closed = True
            idle, self.idle = self.idle, idle
            line, self.line = self.line, line
        for each in line:
            each.why, each.ours = CLOSED, True
            each.come()
        close_all(idle)

    def forget(self):
        """Begin without connections, and with nobody in line."""
        self.idle, self.line, self.used, self.few = [], [], 0, FEW


cdef close_all(list links):
    for link in links:
        link.close()
