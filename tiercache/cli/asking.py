"""A process of `tiercache demo popular`: its callers go on asking for one item, and note what they get.

popular.py starts it, with a job on stdin; "end" on stdin ends it, and a report goes to stdout. Where stdin ends
without "end" the process leaves at once.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tiercache import Cache, Policy
from tiercache.cli.journal import Journal, Section

WAITED = ("loaded", "waited")  # the sources of who waited for a loader: its own, or somebody else's


class Asking:
    """The callers of one process."""

    def __init__(self, job: dict[str, Any], section: Section) -> None:
        self.job, self.section = job, section
        self.end = threading.Event()
        self.lock = threading.Lock()
        self.waited: list[int] = []  # the numbers of those calls
        self.errors: list[str] = []
        self.cache = Cache(job["url"], namespace=job["mark"], policy=Policy(**job["policy"]))

    def load(self) -> int:
        """The slow query, noted in the journal."""
        with self.lock:
            number = self.section.query_starts()
        time.sleep(self.job["load"])
        self.section.query_ends(number)
        return number

    def ask(self, calls: range) -> None:
        """One caller: asks at its pace until the end."""
        pause = 1 / self.job["pace"]
        self.end.wait(pause * random.random())
        for number in calls:
            if self.end.wait(pause):
                return
            try:
                self.section.asked(number)
                result = self.cache.lookup("popular", self.load)
                self.section.answer(number, time.monotonic())
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            else:
                if result.source in WAITED:
                    self.waited.append(number)

    def listen(self) -> None:
        """Follow stdin: where it ends without "end", the demo is gone."""
        for line in sys.stdin:
            if line.strip() == "end":
                return self.end.set()
        os._exit(1)

    def run(self) -> dict[str, Any]:
        """Ask until told to end; what there is to report."""
        threading.Thread(target=self.listen, daemon=True).start()
        with self.cache:
            self.cache.get_or_load("popular", self.load)
            each = self.job["calls"] // self.job["callers"]
            parts = [range(first, first + each) for first in range(0, each * self.job["callers"], each)]
            callers = [threading.Thread(target=self.ask, args=(part,)) for part in parts]
            for caller in callers:
                caller.start()
            self.section.ready()
            for caller in callers:
                caller.join()
            return {"waited": self.waited, "errors": self.errors[:3], "stats": self.cache.stats()}


def main() -> None:
    """Run one process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the demo decides
    job = json.loads(sys.stdin.readline())
    with Journal(Path(job["journal"]), job["processes"], job["calls"]) as journal:
        print(json.dumps(Asking(job, journal.sections[job["index"]]).run()))
