"""Commands as Redis reads them: RESP2."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_GET_LENGTH, PyUnicode_READ_CHAR
from libc.string cimport memcpy

cdef enum:
    PLAIN = 50  # characters


cdef inline Py_ssize_t width(Py_ssize_t number) noexcept:
    # Decimal digits.
    cdef Py_ssize_t digits = 1
    while number >= 10:
        number //= 10
        digits += 1
    return digits


cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    bint PyUnicode_IS_ASCII(object text) noexcept


cdef inline char* head(char* at, char kind, Py_ssize_t number) noexcept:
    # Writes a line such as $12; the place behind it.
    cdef Py_ssize_t digits = width(number), n
    at[0] = kind
    for n in range(digits, 0, -1):
        at[n] = <char>(c"0" + number % 10)
        number //= 10
    at[digits + 1], at[digits + 2] = c"\r", c"\n"
    return at + digits + 3


cdef inline char* put(char* at, const char* data, Py_ssize_t size) noexcept:
    # Writes one part of a command; the place behind it.
    at = head(at, c"$", size)
    memcpy(at, data, size)
    at[size], at[size + 1] = c"\r", c"\n"
    return at + size + 2


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
        at = put(at, PyBytes_AS_STRING(part), len(part))
    return packed


def pack_read(str name not None):
    """PTTL and GET of a name: the one write of a tier-2 hit."""
    cdef Py_ssize_t size
    cdef const char* data = PyUnicode_AsUTF8AndSize(name, &size)
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, 27 + 2 * (width(size) + size + 5))
    cdef char* at = put(head(PyBytes_AS_STRING(packed), c"*", 2), b"PTTL", 4)
    at = put(head(put(at, data, size), c"*", 2), b"GET", 3)
    put(at, data, size)
    return packed


def is_plain(key):
    """Does a key stand in Redis as it is? Said at a glance: not a long one, and no text but ASCII."""
    return (
        type(key) is str and PyUnicode_IS_ASCII(key) and 0 < PyUnicode_GET_LENGTH(key) <= PLAIN
        and PyUnicode_READ_CHAR(key, 0) != c"#"
    )
