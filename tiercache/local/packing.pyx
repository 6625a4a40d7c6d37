"""Commands as Redis reads them: RESP2."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy


cdef inline Py_ssize_t width(Py_ssize_t number) noexcept:
    # Decimal digits.
    cdef Py_ssize_t digits = 1
    while number >= 10:
        number //= 10
        digits += 1
    return digits


cdef inline char* head(char* at, char kind, Py_ssize_t number) noexcept:
    # Writes a line such as $12; the place behind it.
    cdef Py_ssize_t digits = width(number), n
    at[0] = kind
    for n in range(digits, 0, -1):
        at[n] = <char>(c"0" + number % 10)
        number //= 10
    at[digits + 1], at[digits + 2] = c"\r", c"\n"
    return at + digits + 3


def pack(*words):
    """One command of bytes, texts and whole numbers."""
    cdef list parts = []
    cdef Py_ssize_t size = 3 + width(len(words))
    cdef bytes part, packed
    cdef char* at
    for word in words:
        if type(word) is bytes:
            part = word
        else:
            part = (<str>word if type(word) is str else str(word)).encode()
        parts.append(part)
        size += width(len(part)) + len(part) + 5
    packed = PyBytes_FromStringAndSize(NULL, size)
    at = head(PyBytes_AS_STRING(packed), c"*", len(parts))
    for part in parts:
        at = head(at, c"$", len(part))
        memcpy(at, PyBytes_AS_STRING(part), len(part))
        at += len(part)
        at[0], at[1] = c"\r", c"\n"
        at += 2
    return packed
