# The one clock of tier 1: monotonic seconds. Two processes never compare theirs.
cdef extern from *:
    """
    #include <time.h>
    static inline double tiercache_monotonic(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
    """
    double monotonic "tiercache_monotonic"() noexcept nogil
