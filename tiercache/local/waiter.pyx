"""What a task waits for beside many others: as much of a future as a task asks for, and all of them go on in one call.

An event loop makes a handle for each future that is done, puts it in its queue and takes it out again, which is a good
part of what it costs to let a task go on. Here the loop has one handle for all tasks that wait for one flight.
"""
cimport cython


@cython.final
@cython.freelist(64)
cdef class Waiter:
    """For one task of a loop, which waits until `end` is called, at the latest at `until` of the loop's clock.

    `cancelled_error` is raised in a task that is cancelled. To be used on the loop's thread.
    """

    cdef object loop, cancelled_error, callback, context, error
    cdef readonly double until
    cdef bint ended, asked
    cdef public bint _asyncio_future_blocking

    def __init__(self, loop, double until, cancelled_error):
        self.loop, self.until, self.cancelled_error = loop, until, cancelled_error

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.asked or self.ended:
            raise StopIteration
        self.asked = self._asyncio_future_blocking = True
        return self

    # What a task calls.

    def get_loop(self):
        return self.loop

    def add_done_callback(self, callback, *, context=None):
        self.callback, self.context = callback, context

    def result(self):
        error, self.error = self.error, None
        if error is not None:
            raise error

    def done(self):
        return self.ended

    def cancel(self, msg=None):
        if self.ended:
            return False
        self.error = self.cancelled_error() if msg is None else self.cancelled_error(msg)
        self.end()
        return True

    # What who wakes it calls.

    def end(self):
        """Let the task go on, in the next turn of its loop."""
        callback, context = self.take()
        if callback is not None:
            self.loop.call_soon(callback, self, context=context)

    cdef tuple take(self):
        # Whom to call, and in which context: once, and none of those that are not waiting.
        cdef tuple taken = (self.callback, self.context)
        self.ended = True
        self.callback = self.context = None
        return taken


def end_all(list waiters not None):
    """Let the tasks of one loop go on now, in a call that their loop makes; those that went on leave the list.

    What a task lets through, which is KeyboardInterrupt or SystemExit, comes out of here.
    """
    cdef Waiter waiter
    waiters.reverse()
    try:
        while waiters:
            waiter = waiters.pop()
            callback, context = waiter.take()
            if callback is not None:
                context.run(callback, waiter)
    finally:
        waiters.reverse()
