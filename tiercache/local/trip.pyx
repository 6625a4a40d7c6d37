"""A question and its answer on a socket, with the interpreter's lock given up once."""

cdef extern from "<poll.h>" nogil:
    short POLLIN
    struct pollfd:
        int fd
        short events
    int poll(pollfd* looked_at, unsigned long count, int milliseconds)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t recv(int fd, void* data, size_t size, int flags)

cdef enum:
    ROOM = 16_384


def trip(int fd, bytes packed not None, double seconds):
    """Send on a non-blocking socket, and give what comes within `seconds`: the answer, or its beginning.

    None: nothing was sent, because there is something to read already, if only that the connection ended. A number:
    so many bytes were sent, and whoever goes on from there finds out why it was not all or why nothing came.
    """
    cdef char answer[ROOM]
    cdef const char* data = packed
    cdef Py_ssize_t size = len(packed), sent, came = 0
    cdef int milliseconds = <int>(min(max(seconds, 0.0), 1e6) * 1000) + 1
    cdef pollfd look
    look.fd, look.events = fd, POLLIN
    with nogil:
        if poll(&look, 1, 0) > 0:
            sent = -1
        else:
            sent = max(0, send(fd, data, size, 0))
            if sent == size and poll(&look, 1, milliseconds) > 0:
                came = recv(fd, answer, ROOM, 0)
    if sent < 0:
        return None
    return answer[:came] if came > 0 else sent
