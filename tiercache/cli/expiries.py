"""What `tiercache demo popular` found: the figures, the table, the JSON, the picture and what is seen meanwhile."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiercache.cli.plot import save
from tiercache.cli.popular import ARMS, Course, Plan, Seen, Watcher
from tiercache.cli.report import empty_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

_CALL, _WAITED, _LOAD, _END = "#4c78a8", "#e45756", "#f2cf5b", "#808080"
_LINE_SECONDS = 2.0
_LEGEND = (
    "renewals: loads while the callers ask; waited for: those that kept one waiting\n"
    "waited: callers who loaded or waited for a load; p99.9, longest: ms, all calls"
)


@dataclass(frozen=True)
class Figures:
    """One arm in numbers; `renewals` are the loads while its callers ask, `waited_for` those that kept one waiting."""

    calls: int
    renewals: int
    waited_for: int
    waited: int
    p999_ms: float
    longest_ms: float
    errors: list[str]
    bypasses: dict[str, int]


def figures(course: Course) -> Figures:
    """The figures of one arm."""
    times = sorted((span.end - span.begin) * 1000 for span in course.calls if span.end is not None) or [0.0]
    renewals = [load for load in course.loads if load.begin >= course.begin]
    return Figures(
        calls=len(course.calls),
        renewals=len(renewals),
        waited_for=sum(
            1 for load in renewals if any(_waits_for(caller.end, load.end, course) for caller in course.waited)
        ),
        waited=len(course.waited),
        p999_ms=_percentile(times, 0.999),
        longest_ms=_percentile(times, 1),
        errors=course.errors,
        bypasses={name: count for name, count in course.stats.items() if name.startswith("bypass_")},
    )


def _waits_for(answered: float | None, loaded: float | None, course: Course) -> bool:
    # Whoever waits is answered after the load that it waited for, and before the next one ends.
    if answered is None or loaded is None:
        return False
    return loaded <= answered and not any(loaded < (load.end or math.inf) <= answered for load in course.loads)


def shortcomings(courses: list[Course]) -> list[str]:
    """What refresh ahead did not keep of its promise, and errors in any arm, one line each."""
    lines = [f"{course.title}: a caller got {course.errors[0]}" for course in courses if course.errors]
    for course in courses:
        found = figures(course)
        if course.arm == "ahead" and found.waited:
            lines.append(f"{course.title} kept {found.waited} callers waiting")
        if course.arm == "ahead" and not found.renewals:
            lines.append(f"{course.title} renewed nothing")
    return lines


def print_table(courses: list[Course], plan: Plan, console: "Console") -> None:
    """The table of all arms, and what it needs to be read."""
    console.print(
        f"\n{plan.processes} processes x {plan.callers} callers ask for one item about "
        f"{plan.processes * plan.callers * plan.pace:.0f} times a second for {plan.seconds:.0f} s;\n"
        f"its ttl is {plan.ttl:g} s, its loader takes {plan.load:g} s",
        highlight=False,
    )
    table = empty_table("calls", "renewals", "waited for", "waited", "p99.9", "longest")
    for course in courses:
        found = figures(course)
        counts = (found.calls, found.renewals, found.waited_for, found.waited)
        times = (found.p999_ms, found.longest_ms)
        table.add_row(course.title, *(f"{count:,}" for count in counts), *(f"{ms:,.1f}" for ms in times))
    console.print(table)
    console.print(_LEGEND, highlight=False)


def as_json(courses: list[Course], plan: Plan, versions: dict[str, str]) -> str:
    """The same, for machines."""
    document = {
        "ttl_seconds": plan.ttl,
        "load_seconds": plan.load,
        "seconds": plan.seconds,
        "processes": plan.processes,
        "callers_per_process": plan.callers,
        "versions": versions,
        "arms": {course.arm: asdict(figures(course)) for course in courses},
    }
    return json.dumps(document, indent=2)


@contextmanager
def progress(console: "Console", seconds: float) -> Iterator[Watcher]:
    """Shows what is seen of the arms: bars on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield _lines(console)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = ("{task.description:<20}", "{task.fields[loads]:>3} loads", "longest wait {task.fields[longest]:>5.2f} s")
    texts = [TextColumn(column) for column in columns]
    with Progress(texts[0], BarColumn(bar_width=20), *texts[1:], console=console) as bars:
        tasks = {arm: bars.add_task(title, total=seconds, loads=1, longest=0.0) for arm, (title, _) in ARMS.items()}

        def show(passed: float, seen: Seen) -> None:
            for arm, (loads, longest) in seen.items():
                bars.update(tasks[arm], completed=min(passed, seconds), loads=loads, longest=longest)

        yield show


def _lines(console: "Console") -> Watcher:
    said = -math.inf

    def show(passed: float, seen: Seen) -> None:
        nonlocal said
        if passed - said >= _LINE_SECONDS:
            said = passed
            arms = "; ".join(
                f"{ARMS[arm][0]}: {loads} loads, longest wait {longest:.2f} s" for arm, (loads, longest) in seen.items()
            )
            console.print(f"{passed:.0f} s: {arms}", highlight=False, soft_wrap=True)

    return show


def draw(courses: list[Course], plan: Plan, path: Path) -> None:
    """Write the picture, a PNG: a panel per arm, in which every call is a dot, at its time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.4 * len(courses) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(courses), 1, sharex=True, sharey=True)
    for panel, course in zip(panels, courses, strict=True):
        _draw_arm(panel, course, plan)
    panels[-1].set_xlabel("seconds")
    figure.suptitle(
        f"One item, ttl {plan.ttl:g} s, its loader takes {plan.load:g} s: how long each call took\n"
        "dots: calls (red: who waited for the loader); yellow: the loader runs; dotted: a value ends, renewed or not",
        fontsize=10,
    )
    save(figure, path)


def _draw_arm(panel: "Axes", course: Course, plan: Plan) -> None:
    for load in course.loads:
        panel.axvspan(
            load.begin - course.begin, (load.end or course.stop) - course.begin, color=_LOAD, alpha=0.45, lw=0
        )
        if load.end is not None:
            panel.axvline(load.end + plan.ttl - course.begin, color=_END, linestyle=":", linewidth=1)
    waited = set(course.waited)
    others = [span for span in course.calls if span not in waited]
    for spans, colour in ((others, _CALL), (course.waited, _WAITED)):
        ended = [(span.begin - course.begin, (span.end - span.begin) * 1000) for span in spans if span.end is not None]
        panel.scatter([at for at, _ in ended], [ms for _, ms in ended], s=3, color=colour, linewidths=0)
    panel.set_yscale("log")
    panel.set_xlim(0, plan.seconds)
    panel.set_ylabel("ms")
    found = figures(course)
    panel.set_title(
        f"{course.title}: {found.renewals} renewals, {found.waited:,} callers waited", loc="left", fontsize=10
    )


def _percentile(ordered: list[float], share: float) -> float:
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 2)
