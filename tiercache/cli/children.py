"""The processes of one arm: started, told what to do, heard, and never left behind."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY_SECONDS = 60.0
END_SECONDS = 15.0
TICK_SECONDS = 0.05
# The child gets our sys.path and nothing of the working directory: the same tiercache, wherever we run.
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tiercache.cli import {0}; {0}.main()"


class ChildError(Exception):
    """A process ended, or never got ready; the text is one line."""


class Children:
    """A process for each job, running `main` of a module of tiercache.cli; leaving the context kills those that run."""

    def __init__(self, arm: str, module: str, jobs: Sequence[dict[str, Any]], directory: Path) -> None:
        self._arm, self._jobs, self._directory = arm, jobs, directory
        self._code = _CHILD.format(module)
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, check: Callable[[], None]) -> None:
        """Start them all and give each its job, which holds the URL: no password in an argument list."""
        for index, job in enumerate(self._jobs):
            check()
            with open(self._errors_of(index), "wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", self._code, json.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            self._processes.append(process)
            self._write(process, json.dumps(job) + "\n")

    def until(
        self, fact: Callable[[], bool], check: Callable[[], None], seconds: float = READY_SECONDS, must: bool = True
    ) -> bool:
        """Wait for a fact; where it does not come about in time: False, or ChildError if it must."""
        deadline = time.monotonic() + seconds
        while not fact():
            check()
            self.raise_if_one_ended()
            if time.monotonic() > deadline:
                if must:
                    raise ChildError(f"the processes of arm {self._arm} were not ready after {seconds:.0f} s")
                return False
            time.sleep(TICK_SECONDS)
        return True

    def tell(self, line: str) -> None:
        """Send one line to all of them."""
        for process in self._processes:
            self._write(process, line)

    def reports(self) -> list[dict[str, Any]]:
        """What each has to say, once it ends."""
        reports = []
        for index, process in enumerate(self._processes):
            try:
                text, _ = process.communicate(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                raise ChildError(f"a process of arm {self._arm} did not end") from None
            if process.returncode:
                raise ChildError(self._why(index))
            reports.append(json.loads(text))
        return reports

    def raise_if_one_ended(self) -> None:
        for index, process in enumerate(self._processes):
            if process.poll() is not None:
                raise ChildError(self._why(index))

    def kill(self) -> None:
        """Kill what still runs: a query in progress is not waited for."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()
        self._processes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _write(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            process.wait(END_SECONDS)  # it ended; the next look at it says why
            self.raise_if_one_ended()

    def _errors_of(self, index: int) -> Path:
        return self._directory / f"{self._arm}.{index}.err"

    def _why(self, index: int) -> str:
        lines = self._errors_of(index).read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        code = self._processes[index].returncode
        return f"a process of arm {self._arm} ended with code {code}: {last}"
