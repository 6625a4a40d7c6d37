"""A question and its answer on a socket, with the interpreter's lock given up once."""
from libc.string cimport memchr

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


cdef const char* read_line(const char* at, const char* end, long long* number) noexcept:
    # The place behind a line such as $12, and its number; NULL if it is not whole, or is anything else.
    cdef const char* stop = <const char*>memchr(at, c"\r", end - at)
    cdef bint negative = end - at > 1 and at[1] == c"-"
    at += 2 if negative else 1
    if stop == NULL or not 0 < stop - at < 19 or end - stop < 2 or stop[1] != c"\n":
        return NULL
    number[0] = 0
    while at < stop:
        if not c"0" <= at[0] <= c"9":
            return NULL
        number[0] = number[0] * 10 + (at[0] - c"0")
        at += 1
    if negative:
        number[0] = -number[0]
    return stop + 2


cdef list replies_in(const char* at, const char* end, Py_ssize_t count):
    # So many replies, if there are no more and no fewer, and all are whole numbers and strings; else None.
    cdef list replies = []
    cdef long long number = 0
    cdef char kind
    for _ in range(count):
        kind = at[0] if at < end else 0
        if kind != c":" and kind != c"$":
            return None
        at = read_line(at, end, &number)
        if at == NULL:
            return None
        if kind == c":":
            replies.append(number)
        elif number == -1:
            replies.append(None)
        elif number < 0 or end - at < 2 or number > end - at - 2 or at[number] != c"\r" or at[number + 1] != c"\n":
            return None
        else:
            replies.append(at[:number])
            at += number + 2
    return replies if at == end else None


def trip(int fd, bytes packed not None, Py_ssize_t count, double seconds):
    """Send on a non-blocking socket, and give what comes within `seconds`.

    A list: the `count` replies, all of them numbers and strings. Bytes: any other answer, or its beginning. None:
    nothing was sent, because there is something to read already, if only that the connection ended. A number: so many
    bytes were sent, and whoever goes on from there finds out why it was not all or why nothing came.
    """
    cdef char answer[ROOM]
    cdef const char* data = packed
    cdef Py_ssize_t size = len(packed), sent, came = 0
    cdef int milliseconds = <int>(min(max(seconds, 0.0), 1e6) * 1000) + 1
    cdef pollfd look
    cdef list replies
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
    if came <= 0:
        return sent
    replies = replies_in(answer, answer + came, count)
    return answer[:came] if replies is None else replies
