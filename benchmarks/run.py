"""Runs the benchmarks.

    python benchmarks/run.py              all of them, about 25 minutes; rewrites docs/performance.md and its pictures
    python benchmarks/run.py --quick      the two-minute form; prints its goals and changes nothing

Needs the extras `test` and `bench`. The timed groups run several times in fresh processes, and a row is the smallest
time of any; the others repeat what they do themselves.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import report
from results import Results, collected

HERE = Path(__file__).parent
TIMED = ("test_hit.py", "test_tier2.py", "test_miss.py")
ONCE = ("test_waking.py", "test_memory.py", "test_growth.py", "test_herds.py")
PASSES = 5


def measured(quick: bool) -> Results:
    """Run everything in one form."""
    passes = [TIMED] * (2 if quick else PASSES) + [ONCE]
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder, f"{number}.json") for number in range(len(passes))]
        for files, path in zip(passes, reports, strict=True):
            _benchmark(files, path, quick)
        return collected("two-minute" if quick else "full", reports)


def _benchmark(files: Sequence[str], path: Path, quick: bool) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--benchmark-json={path}"]
    command += ["--benchmark-group-by=group", "--benchmark-columns=min,median,rounds", *(["--quick"] if quick else [])]
    subprocess.run([*command, *(str(HERE / file) for file in files)], check=True, cwd=HERE.parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the two-minute form")
    quick = parser.parse_args().quick
    results = measured(quick)
    if not quick:
        results.save(report.FILE)
        report.main()
    print(report.machine(results), report.goals(results), sep="\n\n")


if __name__ == "__main__":
    main()
