# The one clock of tier 1: monotonic seconds. Two processes never compare theirs.
#
# Reading it takes longer than the rest of a hit. The kernel's coarse clock has the same origin, is never ahead of it
# and costs a fifth; it was never seen more than 8 ms behind on idle cores, 22 ms on starved ones. A hit asks whether
# an end lies ahead of `latest`, which is past now in all of that; who is nearer to it takes the slow path, which
# reads the exact clock. Where there is no coarse clock, `latest` is now.
cdef extern from *:
    """
    #include <time.h>
    static inline double tiercache_read(clockid_t clock) {
        struct timespec t;
        clock_gettime(clock, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
    #define tiercache_monotonic() tiercache_read(CLOCK_MONOTONIC)
    #ifdef CLOCK_MONOTONIC_COARSE
    #define tiercache_latest() (tiercache_read(CLOCK_MONOTONIC_COARSE) + 0.025)
    #else
    #define tiercache_latest() tiercache_monotonic()
    #endif
    """
    double monotonic "tiercache_monotonic"() noexcept nogil
    double latest "tiercache_latest"() noexcept nogil
