"""Writes the figures of docs/performance.md from a file of results, and the gate's: python benchmarks/report.py

Each block of the page between `<!-- figures: NAME -->` and `<!-- end of figures: NAME -->` is one function's.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from gate import INSTRUCTIONS
from goals import GOALS
from results import Results, Row

ROOT = Path(__file__).parent.parent
PAGE, FILE, PICTURES = (
    ROOT / "docs" / "performance.md",
    Path(__file__).parent / "results.json",
    ROOT / "docs" / "pictures",
)
BLOCK = re.compile(r"(?<=<!-- figures: )(?P<name>[\w-]+) -->\n.*?(?=<!-- end of figures: (?P=name) -->)", re.S)


def written(page: str, results: Results) -> str:
    """The page with the figures of these results; KeyError where it has a block that nothing fills."""
    return BLOCK.sub(lambda block: f"{block['name']} -->\n\n{BLOCKS[block['name']](results)}\n\n", page)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table whose columns are flush right but those in `left`; "Not measured." without rows."""
    if not rows:
        return "Not measured."
    rules = ["---" if number in left else "---:" for number in range(len(head))]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rules)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """With three digits and the unit that suits."""
    unit, factor = next(
        (pair for pair in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)) if seconds * pair[1] < 1000), ("s", 1)
    )
    number = seconds * factor
    return f"{number:,.{0 if number >= 99.5 else 1 if number >= 9.95 else 2}f} {unit}"


def machine(results: Results) -> str:
    """Date, form, machine and versions."""
    own = [f"{name} {version}" for name, version in results.versions.items()]
    where = "{processor}, {cores} cores, {system}".format(**results.machine)
    return f"{results.date}, the {results.form} form, on: {where}.\n\n{', '.join(own)}."


def goals(results: Results) -> str:
    """Every goal with what was measured."""
    rows = []
    for goal in GOALS:
        found = goal.judge(results)
        rows.append((goal.what, goal.must, found[0] if found else "not measured", _yes(found and found[1])))
    return table(("what", "goal", "measured", "met"), rows, left=(0, 1, 2, 3))


def _yes(met: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "-"}[met]


def timed(group: str) -> Callable[[Results], str]:
    """The rows of a group of timed calls: the fastest first, ours in bold."""

    def block(results: Results) -> str:
        rows = []
        for row in sorted(results.of_group(group), key=lambda row: row["seconds"]):
            ratio = results.ratio(row)
            name = f"**tiercache, {row['name']}**" if row["role"] == "ours" else row["name"]
            beside = "yardstick" if ratio is None else f"{ratio:.2f} of {row['against']}"
            rows.append((name, duration(row["seconds"]), beside, row.get("note", "")))
        return table(("call", "each", "beside its yardstick", "differs by"), rows, left=(0, 2, 3))

    return block


def interpreters(_: Results) -> str:
    """The gate's ratios: a row for each hit, a column for each version of Python."""
    files = [json.loads(path.read_text()) for path in sorted(INSTRUCTIONS.glob("*.json"))]
    heads = [str(file["python"]).partition(",")[0] for file in files]
    rows = [(name, *(f"{file['ratios'][name]:.2f}" for file in files)) for name in files[0]["ratios"]]
    return table(("call", *heads), rows)


def faster(results: Results) -> str:
    """Each case in which another cache needs less than ours for what is compared with the same yardstick."""
    fields = dict.fromkeys(TIMED, "seconds") | {"memory": "bytes", "herd": "last"}
    lines = []
    for group, field in fields.items():
        rows = results.of_group(group)
        for ours in (row for row in rows if row["role"] == "ours"):
            peers = [row for row in rows if row["role"] == "peer" and row["against"] == ours["against"]]
            for peer in (peer for peer in peers if peer[field] < ours[field]):
                note = f" ({peer['note']})" if "note" in peer else ""
                needs = f"needs {peer[field] / ours[field]:.2f} of what {_of_ours(ours)} needs"
                lines.append(f"- {group}: {peer['name']}{note} {needs}.")
    return "\n".join(lines) or "None in this run."


def _of_ours(row: Row) -> str:
    name = str(row.get("arm", row["name"]))
    return name if name.startswith("tiercache") else f"tiercache's {name}"


def herd(results: Results) -> str:
    """A table for each scene."""
    scenes = dict.fromkeys(row["scene"] for row in results.of_group("herd"))
    return "\n\n".join(f"**{scene}**\n\n{_scene(results, scene)}" for scene in scenes) or "Not measured."


def _scene(results: Results, scene: str) -> str:
    rows = []
    for row in (row for row in results.of_group("herd") if row["scene"] == scene):
        arm = f"**{row['arm']}**" if row["role"] == "ours" else row["arm"]
        times = (duration(row["middle"]), duration(row["last"]), duration(row["cpu"]), duration(row["redis_cpu"]))
        commands = f"{row['commands']:,}" if row["role"] != "yardstick" else "-"
        rows.append((arm, f"{row['loads']:,}", *times[:2], commands, *times[2:]))
    return table(("arm", "loads", "middle waiter", "last waiter", "Redis commands", "processor", "Redis's"), rows)


def waking(results: Results) -> str:
    """Ours, and what is least, beside the usual way."""
    rows = []
    for row in results.of_group("waking"):
        bare = results.against(row)
        if bare is not None:
            name = f"**tiercache, {row['name']}**" if row["role"] == "ours" else row["name"]
            times = (duration(row["seconds"]), duration(bare["seconds"]))
            rows.append((name, times[0], bare["name"], times[1], f"{row['seconds'] / bare['seconds']:.2f}"))
    return table(("what", "last", "beside", "last", "ratio"), rows, left=(0, 2))


def memory(results: Results) -> str:
    """Bytes per entry and the pause, the smallest first."""
    rows = []
    for row in sorted(results.of_group("memory"), key=lambda row: row["bytes"]):
        name = "**tiercache**" if row["role"] == "ours" else row["name"]
        pause = f"{max(row['pause'], 0.0) * 1e3:.0f} ms"
        rows.append((name, f"{row['bytes']:.0f}", pause, f"{row['entries']:,}", row.get("note", "")))
    return table(("cache", "bytes per entry", "longer collection", "entries", "differs by"), rows, left=(0, 4))


def growth(results: Results) -> str:
    """A table for each curve."""
    curves = dict.fromkeys(row["curve"] for row in results.of_group("growth"))
    return "\n\n".join(_curve(results, curve) for curve in curves) or "Not measured."


def _curve(results: Results, curve: str) -> str:
    lines = [row for row in results.of_group("growth") if row["curve"] == curve]
    unit = lines[0]["unit"]
    show = duration if "seconds" in unit else "{:.1f}".format
    rows = [(row["line"], *(show(value) for _, value in row["points"])) for row in lines]
    return table((f"{curve}: {unit}", *(f"{x:,}" for x, _ in lines[0]["points"])), rows)


TIMED = ("hit", "hit-decorated", "hit-async", "tier2", "tier2-concurrent", "miss")
BLOCKS: dict[str, Callable[[Results], str]] = {
    "machine": machine,
    "goals": goals,
    "interpreters": interpreters,
    "faster": faster,
    "herd": herd,
    "waking": waking,
    "memory": memory,
    "growth": growth,
    **{group: timed(group) for group in TIMED},
}


def main() -> None:
    import pictures

    results = Results.load(FILE)
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    pictures.draw(results, PICTURES)


if __name__ == "__main__":
    main()
