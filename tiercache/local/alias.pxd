from cpython.ref cimport PyObject

from tiercache.local.lru cimport LRU, PyUnicode_Compare, same_text, text_hash
from tiercache.local.references cimport Py_None


cdef struct Alias:
    size_t hash
    Py_ssize_t given                  # arguments of the call, those by keyword included
    Py_ssize_t told                   # how many of them are in `args`
    PyObject* args                    # the one, or a tuple of them
    PyObject* names                   # of the arguments by keyword; NULL if there are none
    PyObject* key                     # the key object that the slot had; NULL: no alias stands here
    unsigned int at                   # its slot in the LRU


cdef class Aliases:
    # Guarded by the table's lock.
    cdef Alias* aliases
    cdef size_t mask                  # places - 1
    cdef size_t count
    cdef size_t bound
    cdef unsigned int ignored         # bit n: the n-th positional argument has no say in the key

    cdef int remember(
        self, size_t hash, PyObject* const* args, Py_ssize_t positional, Py_ssize_t given, PyObject* names,
        LRU lru, unsigned int at
    ) except -1
    cdef int spread(self, size_t size) except -1
    cdef int forget(self) except -1


cdef enum:
    LOOKS = 16                        # places in which an alias may stand, its own included
    MOST = 32                         # arguments of a call that can have an alias


cdef extern from "Python.h":
    bint PyLong_CheckExact(PyObject*) noexcept
    bint PyUnicode_CheckExact(PyObject*) noexcept
    bint PyBytes_CheckExact(PyObject*) noexcept
    Py_hash_t PyObject_Hash(PyObject*) noexcept
    int PyObject_RichCompareBool(PyObject*, PyObject*, int) noexcept
    int Py_EQ
    PyObject* PyTuple_GET_ITEM(PyObject*, Py_ssize_t) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject*) noexcept
    void* Py_TYPE(PyObject*) noexcept


cdef extern from *:
    """
    /* The hash of an int, without a call where it has one digit. */
    static inline Py_hash_t tiercache_int_hash(PyObject *number) {
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)number))
            return (Py_hash_t)PyUnstable_Long_CompactValue((PyLongObject *)number);
    #else
        if (Py_SIZE(number) == 1)
            return (Py_hash_t)((PyLongObject *)number)->ob_digit[0];
    #endif
        return PyObject_Hash(number);
    }
    """
    Py_hash_t int_hash "tiercache_int_hash"(PyObject* number) noexcept


cdef inline size_t mixed(size_t hash, size_t more) noexcept:
    hash = (hash ^ more) * <size_t>0x9E3779B97F4A7C15
    return hash ^ hash >> 32


cdef inline size_t seed(Py_ssize_t given) noexcept:
    # Of a call's hash: large, because a number equal to it would make 0.
    return mixed(0, <size_t>given + 1)


cdef inline size_t arg_hash(size_t hash, PyObject* arg) noexcept:
    # Of what stood before an argument and of it; 0 if it can have no alias. No Python code runs: only exact types are
    # hashed.
    if PyUnicode_CheckExact(arg):
        return mixed(hash, <size_t>text_hash(arg))
    if PyLong_CheckExact(arg):
        return mixed(hash, <size_t>int_hash(arg))
    if PyBytes_CheckExact(arg):
        return mixed(hash, <size_t>PyObject_Hash(arg))
    return mixed(hash, 1) if arg == Py_None else 0


cdef inline size_t call_hash(
    PyObject* const* args, Py_ssize_t positional, Py_ssize_t given, PyObject* names, unsigned int ignored
) noexcept:
    # Of a call's arguments; 0 if they can have no alias.
    cdef size_t hash = seed(given)
    cdef Py_ssize_t n
    if given > MOST:
        return 0
    for n in range(given):
        if n < positional and ignored >> n & 1:
            continue
        hash = arg_hash(hash, args[n])
        if hash == 0:
            return 0
    for n in range(given - positional):
        hash = mixed(hash, <size_t>text_hash(PyTuple_GET_ITEM(names, n)))
    return hash


cdef inline bint same_arg(PyObject* one, PyObject* other) noexcept:
    if one == other:
        return True
    if Py_TYPE(one) != Py_TYPE(other):
        return False
    if PyUnicode_CheckExact(one):
        return not PyUnicode_Compare(one, other)
    return PyObject_RichCompareBool(one, other, Py_EQ) == 1


cdef inline bint same_names(PyObject* one, PyObject* other) noexcept:
    cdef Py_ssize_t n
    if one == other:
        return True
    if one == NULL or other == NULL or PyTuple_GET_SIZE(one) != PyTuple_GET_SIZE(other):
        return False
    for n in range(PyTuple_GET_SIZE(one)):
        if not same_text(PyTuple_GET_ITEM(one, n), PyTuple_GET_ITEM(other, n)):
            return False
    return True


cdef inline bint stands_for(
    Alias* alias, PyObject* const* args, Py_ssize_t positional, Py_ssize_t given, PyObject* names, unsigned int ignored
) noexcept:
    cdef Py_ssize_t n, told = 0
    if alias.given != given or not same_names(alias.names, names):
        return False
    for n in range(given):
        if n < positional and ignored >> n & 1:
            continue
        if not same_arg(alias.args if alias.told == 1 else PyTuple_GET_ITEM(alias.args, told), args[n]):
            return False
        told += 1
    return True


cdef inline Alias* seek_alias(
    Aliases aliases, size_t hash, PyObject* const* args, Py_ssize_t positional, Py_ssize_t given, PyObject* names
) noexcept:
    cdef size_t place = hash & aliases.mask
    cdef int _
    cdef Alias* alias
    for _ in range(LOOKS):
        alias = &aliases.aliases[place]
        if alias.key == NULL:
            return NULL
        if alias.hash == hash and stands_for(alias, args, positional, given, names, aliases.ignored):
            return alias
        place = (place + 1) & aliases.mask
    return NULL


cdef inline bint leads(Alias* alias, LRU lru) noexcept:
    # Is the key that it stands for still where it was?
    return alias.at <= lru.used and lru.slots[alias.at].key == alias.key


cdef inline unsigned int slot_of_one(Aliases aliases, PyObject* arg, LRU lru) noexcept:
    # `slot_of` for one argument by position whose alias stands in its own place: nothing is counted or looped over.
    cdef size_t hash = arg_hash(seed(1), arg)
    cdef Alias* alias = &aliases.aliases[hash & aliases.mask]
    if alias.key == NULL or alias.hash != hash or alias.given != 1 or alias.told != 1 or alias.names != NULL:
        return 0
    return alias.at if same_arg(alias.args, arg) and leads(alias, lru) else 0


cdef inline unsigned int slot_of(
    Aliases aliases, PyObject* const* args, Py_ssize_t positional, Py_ssize_t given, PyObject* names, LRU lru
) noexcept:
    # The slot of the entry that these arguments lead to, 0 if they lead nowhere.
    cdef unsigned int at = slot_of_one(aliases, args[0], lru) if given == 1 and names == NULL else 0
    cdef size_t hash
    cdef Alias* alias
    if at:
        return at
    hash = call_hash(args, positional, given, names, aliases.ignored)
    alias = seek_alias(aliases, hash, args, positional, given, names) if hash else NULL
    return alias.at if alias != NULL and leads(alias, lru) else 0
