"""The picture of the demo: every caller a line from asking to answer, the queries as bars on top."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tiercache.cli.herd import Plan, Result
from tiercache.cli.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WAITING, _UNANSWERED, _QUERY = "#4c78a8", "#b8b8b8", "#e45756"


def complaint(path: Path) -> str | None:
    """Why a picture can't be written there, in one line; None if it can. Leaves no file."""
    if path.is_dir():
        return f"--plot {path}: is a directory"
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            with open(path, "ab"):
                pass
    except OSError as error:
        return f"--plot {path}: can't be written: {error.strerror}"
    return None


def draw(results: list[Result], plan: Plan, path: Path) -> None:
    """Write the picture, a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(results), 6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, result in enumerate(results):
        panel = figure.add_subplot(1, len(results), number + 1)
        _draw_arm(panel, result, plan)
        if number == 0:
            panel.set_ylabel("callers, in the order of their processes")
    figure.suptitle(
        f"{plan.processes} processes x {plan.callers} callers ask for one expired item\n"
        f"blue: a caller from asking to answer; red: a query, {plan.query_seconds * 1000:.0f} ms when alone"
        + ("; grey: never answered" if any(result.answered < len(result.callers) for result in results) else ""),
        fontsize=11,
    )
    save(figure, path)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure there, a PNG, in one step: nobody sees half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "xb") as file:
            figure.savefig(file, format="png", dpi=110)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _draw_arm(panel: "Axes", result: Result, plan: Plan) -> None:
    end = result.stop
    for answered, colour in ((True, _WAITING), (False, _UNANSWERED)):
        lines = [
            (number, span.begin - result.begin, (span.end or end) - result.begin)
            for number, span in enumerate(result.callers)
            if (span.end is not None) == answered
        ]
        if lines:
            heights, begins, ends = zip(*lines, strict=True)
            panel.hlines(heights, begins, ends, colors=colour, linewidth=0.6)
    _draw_queries(panel, result)
    panel.set_xlim(left=0)
    panel.set_xlabel("seconds")
    found = figures(result, plan)
    state = (
        f"stopped: {found.answered}/{found.callers} answered" if found.stopped else f"last answer {found.seconds:.2f} s"
    )
    noun = "query" if found.queries == 1 else "queries"
    panel.set_title(f"{result.title}\n{found.queries:,} {noun}, {state}", fontsize=10)


def _draw_queries(panel: "Axes", result: Result) -> None:
    spans = sorted(result.queries_spans, key=lambda span: span.begin)
    top = max(1, len(result.callers))
    height = 0.15 * top / max(1, len(spans))
    panel.barh(
        [1.03 * top + number * height for number in range(len(spans))],
        [(span.end or result.stop) - span.begin for span in spans],
        height,
        [span.begin - result.begin for span in spans],
        align="edge",
        color=_QUERY,
        linewidth=0,
    )
