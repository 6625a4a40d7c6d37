"""A coroutine that never suspends, as a call."""
from cpython.ref cimport PyObject

from tiercache.local.references cimport owned


cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object given, PyObject** result) except PYGEN_ERROR


def run(coroutine):
    """The result of a coroutine that never suspends."""
    cdef PyObject* sent = NULL
    cdef PySendResult how = PyIter_Send(coroutine, None, &sent)
    result = owned(sent)
    if how == PYGEN_RETURN:  # without a StopIteration
        return result
    coroutine.close()
    raise RuntimeError("a blocking port suspended: this is a defect of tiercache")
