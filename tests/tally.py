"""Adds up what a long run counted (pytest's --junitxml) and puts it between the marks of a page.

python tests/tally.py report.xml docs/reliability.md
"""

import datetime
import os
import platform
import sys
import xml.etree.ElementTree as xml
from collections import Counter, defaultdict
from pathlib import Path

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->"
GREATEST = ("longest", "slowest", "grown", "peak", "per", "a second")  # these are not added up


def main(page: str, *reports: str) -> None:
    roots = [xml.parse(report).getroot() for report in reports]
    suites = [suite for root in roots for suite in root.iter("testsuite")]
    counted: defaultdict[str, dict[str, float]] = defaultdict(dict)
    tests: Counter[str] = Counter()
    for case in (case for suite in suites for case in suite.iter("testcase")):
        name = case.get("classname", "").removeprefix("tests.").replace(".", "/") or "?"
        if case.find("skipped") is None:
            tests[name] += 1
        for each in case.iter("property"):
            what, value = str(each.get("name")).replace("_", " "), float(str(each.get("value")))
            of_all = any(word in what for word in GREATEST)
            before = counted[name].get(what, 0.0)
            counted[name][what] = max(before, value) if of_all else before + value
    failed = sum(int(suite.get(kind, 0)) for suite in suites for kind in ("failures", "errors"))
    skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
    hours = sum(float(suite.get("time", 0)) for suite in suites) / 3600
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        f"{today}, CPython {platform.python_version()}, {os.cpu_count()} shared cores: {tests.total()} tests in "
        f"{hours:.1f} hours, {failed} failed, {skipped} skipped.",
        "",
        "| file | tests | counted |",
        "|---|---:|---|",
    ]
    for name in sorted(tests):
        words = ", ".join(f"{what} {value:,.10g}" for what, value in counted[name].items())
        lines.append(f"| `{name}` | {tests[name]} | {words} |")
    text = Path(page).read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    Path(page).write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
