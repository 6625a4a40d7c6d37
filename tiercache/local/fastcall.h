/* Calls without a tuple and a dict, where Cython has no syntax for it.

   CPython passes a caller's own array of arguments (PEP 590) to two kinds of callables. Both are filled in here by
   hand, after the types are made; without that the same types work, by way of Cython's own entry points.

   An object of an extension type. Cython's `__call__(self, *args, **kwargs)` builds a tuple for each call, and a dict
   where there are keywords. `tiercache_vectorcall` names the place in the object where the address of a faster entry
   stands:
     tp_vectorcall_offset            the place; subclasses inherit it. NULL there: __call__ is used as before
     Py_TPFLAGS_HAVE_VECTORCALL      it is to be used. Before 3.12 a class made by a `class` statement does not inherit
                                     the flag, so it is set for each subclass too
     Py_TPFLAGS_METHOD_DESCRIPTOR    obj.f(x) may call f(obj, x) without asking f.__get__ for a bound method first. Never
                                     inherited by such classes. It promises that both mean the same
     Py_TPFLAGS_IMMUTABLETYPE        the class can't be changed any more, which lets the interpreter remember where it
                                     found the method

   A method of an extension type. Cython's own entry takes the caller's array, but makes a dict for `**policy` at each
   call. `tiercache_put_in_front` puts another entry into the method object, and returns the one that it replaced, to
   which the new one hands what it can't answer. NULL: this object has no such entry, and stays as it is. */
#include <Python.h>

static inline void tiercache_vectorcall(PyObject *cls, Py_ssize_t offset)
{
    PyTypeObject *type = (PyTypeObject *)cls;
    type->tp_vectorcall_offset = offset;
    type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE;
    PyType_Modified(type);
}

static inline vectorcallfunc tiercache_put_in_front(PyObject *method, vectorcallfunc entry)
{
    PyTypeObject *type = Py_TYPE(method);
    vectorcallfunc *place, replaced;
    if (!PyType_HasFeature(type, Py_TPFLAGS_HAVE_VECTORCALL))
        return NULL;
    place = (vectorcallfunc *)((char *)method + type->tp_vectorcall_offset);
    replaced = *place;
    if (replaced != NULL)
        *place = entry;
    return replaced;
}
