"""The results of a run: rows, versions and the machine, in a file that the page is written from."""

import datetime
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers import versions

from tiercache.cli.server import find_executable

Row = dict[str, Any]


@dataclass
class Results:
    """What was found, by which versions of what, on which kind of machine."""

    form: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]

    def row(self, group: str, name: str) -> Row | None:
        """The row of this name, if it was measured."""
        return next((row for row in self.rows if row["group"] == group and row["name"] == name), None)

    def of_group(self, group: str) -> list[Row]:
        return [row for row in self.rows if row["group"] == group]

    def against(self, row: Row) -> Row | None:
        """The yardstick of a row."""
        return self.row(row["group"], row["against"]) if "against" in row else None

    def ratio(self, row: Row, field: str = "seconds") -> float | None:
        """How many times its yardstick's figure a row's is."""
        yardstick = self.against(row)
        return row[field] / yardstick[field] if yardstick and field in row and field in yardstick else None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Results":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def collected(form: str, reports: Iterable[Path]) -> Results:
    """The results of pytest-benchmark's JSON reports: of a timed call, what its row says, the smallest of any."""
    rows: dict[tuple[str, str], Row] = {}
    for report in reports:
        for benchmark in json.loads(report.read_text(encoding="utf-8"))["benchmarks"]:
            extra = benchmark["extra_info"]
            for row in extra.get("rows", ()):  # those of a benchmark that came to its end
                known = rows.setdefault((row["group"], row["name"]), row)
                if "timed" in extra:
                    known["seconds"] = min(known.get("seconds", math.inf), benchmark["stats"][extra["timed"]])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Results(form, today, _machine(), {**_own_versions(), **versions()}, list(rows.values()))


def _machine() -> dict[str, Any]:
    """The kind of processor and the cores; nothing that names this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "system": platform.system()}


def _own_versions() -> dict[str, str]:
    server = subprocess.run([find_executable(), "--version"], capture_output=True, text=True).stdout
    redis = next((word[2:] for word in server.split() if word.startswith("v=")), "unknown")
    return {"CPython": platform.python_version(), "Redis": redis}
