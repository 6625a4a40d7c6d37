# XFetch (Vattani, Chierichetti, Lowenstein, PVLDB 8(8), 2015): a read with `left` seconds of freshness
# refreshes early with probability exp(-left / theta), theta = beta * delta.
from libc.math cimport log

# No coin is tossed further than 21 theta from the end: exp(-21) < 1e-9.
cdef enum:
    WINDOW = 21


cdef inline bint falls(double left, double theta, double draw) noexcept nogil:
    return theta > 0.0 and left <= -theta * log(draw)


cdef inline double clamped(double delta, double ttl) noexcept nogil:
    return min(max(delta, 0.001), ttl / 4)
