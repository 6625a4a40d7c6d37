"""Adds up what long runs counted (pytest's --junitxml) and puts it between the marks of a page, a row for each file.

python tests/tally.py docs/reliability.md report.xml ...   The rows of files that no report names stay as they are.
"""

import os
import platform
import re
import sys
import xml.etree.ElementTree as xml
from collections import Counter, defaultdict
from pathlib import Path

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->"
GREATEST = re.compile(r"\b(longest|slowest|grown|peak|per|a second)\b")  # these are not added up
ROW = re.compile(r"^\| `([^`]+)` \|.*$", re.MULTILINE)


def rows(suite: xml.Element) -> dict[str, str]:
    """The row of each file that a run was of."""
    counted: defaultdict[str, dict[str, float]] = defaultdict(dict)
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case in suite.iter("testcase"):
        name = case.get("classname", "").removeprefix("tests.").replace(".", "/") or "?"
        ends = [end for end in ("failure", "error", "skipped") if case.find(end) is not None]
        outcomes[name][ends[0] if ends else "passed"] += 1
        for each in case.iter("property"):
            what, value = str(each.get("name")).replace("_", " "), float(str(each.get("value")))
            before = counted[name].get(what, 0.0)
            counted[name][what] = max(before, value) if GREATEST.search(what) else before + value
    today = str(suite.get("timestamp"))[:10]
    made = {}
    for name, ends in outcomes.items():
        bad = "".join(f", {number} {end}" for end, number in sorted(ends.items()) if end != "passed")
        words = ", ".join(f"{what} {value:,.10g}" for what, value in counted[name].items())
        made[name] = f"| `{name}` | {ends['passed']}{bad} | {words} | {today} |"
    return made


def main(page: str, *reports: str) -> None:
    text = Path(page).read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    figures, after = rest.split(END)
    known = {match[1]: match[0] for match in ROW.finditer(figures)}
    for report in reports:
        for suite in xml.parse(report).getroot().iter("testsuite"):
            known |= rows(suite)
    lines = [
        f"CPython {platform.python_version()}, {os.cpu_count()} shared cores.",
        "",
        "| file | tests passed | counted | run on |",
        "|---|---:|---|---|",
        *(known[name] for name in sorted(known)),
    ]
    Path(page).write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
