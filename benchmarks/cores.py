"""Which cores a benchmark uses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_core(*processes: int) -> Iterator[None]:
    """This thread, those it starts, and these processes, share a core where the system can be told so (Linux).

    On two virtual cores most of a short wait is how long an idle one takes to wake, which varies twofold.
    """
    set_cores = getattr(os, "sched_setaffinity", None)
    if set_cores is None:
        yield
        return
    before = {process: os.sched_getaffinity(process) for process in (0, *processes)}
    try:
        for process in before:
            set_cores(process, {max(before[0])})
        yield
    finally:
        for process, cores in before.items():
            set_cores(process, cores)
