"""Daemon threads for loads that run outside their caller's frame; idle ones are reused, then end."""

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("tiercache")

IDLE = 5.0  # seconds that a thread waits for more work


class Workers:
    """At most `limit` daemon threads (the standard pools' threads hold up interpreter exit)."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self.after_fork()

    def after_fork(self) -> None:
        """In the child there are no threads yet."""
        self.lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        # Guarded by `lock`.
        self._pending = 0  # jobs queued or running
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def submit(self, job: Callable[[], object], *, queue_up: bool = True) -> bool:
        """Run `job` on a thread. False if none is free and it may not queue up, or after `close`."""
        with self.lock:
            if self._closed or (not queue_up and self._pending >= self._limit):
                return False
            self._pending += 1
            self._jobs.put(job)
            if self._pending > len(self._threads) and len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._threads.add(thread)
                thread.start()
        return True

    def close(self, timeout: float) -> None:
        """Take no more jobs; wait that long for the running ones."""
        with self.lock:
            self._closed = True
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join(timeout)

    def _run(self) -> None:
        try:
            while True:
                try:
                    job = self._jobs.get(timeout=IDLE)
                except queue.Empty:
                    with self.lock:
                        if not self._jobs.empty():
                            continue
                        self._threads.discard(threading.current_thread())
                    return
                if job is None:
                    return
                try:
                    job()
                except BaseException as error:  # a refresh whose loader raises SystemExit ends no thread of ours
                    log.warning("A background load was ended by %s", type(error).__name__, exc_info=error)
                finally:
                    del job
                    with self.lock:
                        self._pending -= 1
        finally:
            with self.lock:
                self._threads.discard(threading.current_thread())
