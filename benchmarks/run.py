"""Runs the benchmarks.

    python benchmarks/run.py              all of them, about half an hour; rewrites docs/performance.md and its pictures
    python benchmarks/run.py --quick      the two-minute form; prints its goals and changes nothing

Needs the extras `test` and `bench`. The timed groups run several times in fresh processes, and a row is the smallest
figure of any; the others repeat what they do themselves.
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


def measured(quick: bool) -> tuple[Results, bool]:
    """Run everything in one form; what a failed benchmark would have measured is missing from the results."""
    passes = [TIMED] * (2 if quick else PASSES) + [ONCE]
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder, f"{number}.json") for number in range(len(passes))]
        passed = [_benchmark(files, path, quick) for files, path in zip(passes, reports, strict=True)]
        return collected("two-minute" if quick else "full", reports), all(passed)


def _benchmark(files: Sequence[str], path: Path, quick: bool) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--benchmark-json={path}"]
    command += ["--benchmark-group-by=group", "--benchmark-columns=min,median,rounds", *(["--quick"] if quick else [])]
    return subprocess.run([*command, *(str(HERE / file) for file in files)], cwd=HERE.parent).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the two-minute form")
    quick = parser.parse_args().quick
    results, passed = measured(quick)
    if not quick:
        results.save(report.FILE)
        report.main()
    print(report.machine(results), report.goals(results), sep="\n\n")
    if not passed:
        print("\nSome benchmarks failed, see above: their figures are missing.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
