/* How an awaitable that has its value already ends, from CPython 3.12 on.

   There `await` asks an awaitable that is no coroutine of Python's own by tp_iternext, and takes the value out of the
   StopIteration that it ends with. Making such an exception, and freeing it, costs more than all the rest of the hit.
   So one is kept, and serves again and again:

     tiercache_end(value)      ends an iteration with `value`. The kept exception may serve if nobody else has it, and
                               nobody has left anything on it (a traceback, a context); else there is a new one. Its
                               `args` are empty: `await` reads `value` alone
     tiercache_ended(value)    the awaitable is gone: the kept exception lets the value go too. If somebody has caught
                               that exception, it is theirs from now on. (One that somebody caught and dropped before
                               that is dropped at the next hit, with its traceback.)

   The interpreter reads the value before any other thread may run, so under the GIL nobody sees it in between. Before
   3.12, whose `await` asks am_send, and without the GIL, the exception is made as ever. */
#include <Python.h>

#if PY_VERSION_HEX >= 0x030C0000 && !defined(Py_GIL_DISABLED)

static PyStopIterationObject *tiercache_kept = NULL;

static inline int tiercache_is_clean(PyStopIterationObject *kept)
{
    return kept != NULL && Py_REFCNT(kept) == 1 && kept->traceback == NULL && kept->context == NULL
        && kept->cause == NULL && kept->notes == NULL && kept->dict == NULL;
}

static inline void tiercache_end(PyObject *value)
{
    if (!tiercache_is_clean(tiercache_kept)) {
        PyTypeObject *type = (PyTypeObject *)PyExc_StopIteration;
        PyObject *nothing = PyTuple_New(0);
        PyObject *made = nothing == NULL ? NULL : type->tp_new(type, nothing, NULL);
        Py_XDECREF(nothing);
        if (made == NULL)
            return;
        Py_XSETREF(tiercache_kept, (PyStopIterationObject *)made);
    }
    Py_XSETREF(tiercache_kept->value, Py_NewRef(value));
    PyErr_SetRaisedException(Py_NewRef(tiercache_kept));
}

static inline void tiercache_ended(PyObject *value)
{
    if (tiercache_kept == NULL || tiercache_kept->value != value)
        return;
    if (Py_REFCNT(tiercache_kept) == 1)
        Py_CLEAR(tiercache_kept->value);
    else
        Py_CLEAR(tiercache_kept);
}

#else

static inline void tiercache_end(PyObject *value)
{
    /* SetObject alone would take a tuple or an exception for the exception's own arguments. */
    PyObject *made = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (made != NULL) {
        PyErr_SetObject(PyExc_StopIteration, made);
        Py_DECREF(made);
    }
}

static inline void tiercache_ended(PyObject *value) { (void)value; }

#endif
