"""The pictures of docs/performance.md: transparent SVGs whose grey text is legible on white and on black."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator
from results import Results, Row

OURS, BARE, PEER, GREY = "#e07b1a", "#2e9e77", "#8a8fd6", "#808080"
COLOURS = {"ours": OURS, "yardstick": BARE, "peer": PEER}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tiercache",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    "legend.frameon": False,
    "axes.titlesize": 9,
}


def draw(results: Results, folder: Path) -> None:
    """Write ratios.svg, growth.svg and herds.svg."""
    folder.mkdir(exist_ok=True)
    for name, picture in (("ratios", ratios), ("growth", growth), ("herds", herds)):
        with plt.rc_context(STYLE):
            figure = picture(results)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
            plt.close(figure)


def ratios(results: Results) -> Any:
    """Bars of the hits: how many times the yardstick's time each call takes."""
    groups = ("hit", "hit-decorated", "hit-async")
    rows = [[row for row in results.of_group(group) if results.ratio(row) is not None] for group in groups]
    heights = [max(len(each), 1) for each in rows]
    size: Any = {"figsize": (7.5, 0.26 * sum(heights) + 1.2), "height_ratios": heights}
    figure, axes = plt.subplots(3, 1, sharex=True, layout="constrained", **size)
    for panel, group, of_group in zip(axes, groups, rows, strict=True):
        of_group.sort(key=lambda row: results.ratio(row) or 0.0, reverse=True)
        values = [results.ratio(row) or 0.0 for row in of_group]
        bars = panel.barh(
            [_label(row) for row in of_group], values, color=[COLOURS[row["role"]] for row in of_group], height=0.7
        )
        panel.bar_label(bars, [f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in values], padding=3)
        panel.axvline(1, color=BARE, linewidth=1.2)
        _log(panel)
        panel.set_title(group, loc="left")
    axes[-1].set_xlabel("times the yardstick's time (green line: functools.lru_cache, an empty coroutine); log scale")
    return figure


def _label(row: Row) -> str:
    name = row["name"].replace("`", "")
    return f"tiercache, {name}" if row["role"] == "ours" else name


def _log(panel: Any, ticks: Sequence[int] | None = None) -> None:
    """A logarithmic axis with plain numbers."""
    panel.set_xscale("log")
    if ticks:
        panel.set_xticks(ticks)
    panel.xaxis.set_major_formatter(
        lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e4 else f"{x:g}"
    )
    panel.xaxis.set_minor_formatter(lambda x, _: "")


def growth(results: Results) -> Any:
    """A panel for each curve."""
    curves = list(dict.fromkeys(row["curve"] for row in results.of_group("growth")))
    figure, axes = plt.subplots(2, 3, figsize=(8.5, 4.6), layout="constrained")
    for panel in axes.flat[len(curves) :]:
        panel.set_axis_off()
    for panel, curve in zip(axes.flat, curves, strict=False):
        lines = [row for row in results.of_group("growth") if row["curve"] == curve]
        factor, unit = _unit(lines)
        for row in lines:
            xs, ys = zip(*row["points"], strict=True)
            colour = COLOURS[row["role"]]
            panel.plot(xs, [y * factor for y in ys], "o-", color=colour, label=row["line"], markersize=3, linewidth=1.2)
        _log(panel, [x for x, _ in lines[0]["points"]])
        panel.set_ylim(0, 1.15 * factor * max(y for row in lines for _, y in row["points"]))
        panel.set_title(unit, loc="left")
        panel.set_xlabel(curve if curve != "commands" else "processes")
        panel.legend(fontsize=7)
    return figure


def _unit(lines: list[Row]) -> tuple[float, str]:
    unit = str(lines[0]["unit"])
    if not unit.startswith(("seconds", "processor seconds")):
        return 1.0, unit
    small = max(y for row in lines for _, y in row["points"]) < 2e-6
    return (1e9, unit.replace("seconds", "ns")) if small else (1e6, unit.replace("seconds", "µs"))


def herds(results: Results) -> Any:
    """How many callers have their answer, by the time since the load's end."""
    scenes = list(dict.fromkeys(row["scene"] for row in results.of_group("herd")))
    figure, axes = plt.subplots(max(len(scenes) + 1, 2) // 2, 2, figsize=(8.5, 2.3 * ((len(scenes) + 1) // 2)))
    figure.set_layout_engine("constrained")
    for panel in axes.flat[len(scenes) :]:
        panel.set_axis_off()
    for panel, scene in zip(axes.flat, scenes, strict=False):
        for row in (row for row in results.of_group("herd") if row["scene"] == scene):
            xs = [max(wait * 1e3, 0.05) for wait in row["course"]]
            ys = [100 * step / (len(xs) - 1) for step in range(len(xs))]
            panel.plot(xs, ys, color=COLOURS[row["role"]], label=row["arm"], linewidth=1.6)
        _log(panel)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_title(scene, loc="left")
        panel.set_xlabel("ms after the load, log scale")
        panel.set_ylabel("% answered")
        panel.legend(fontsize=7)
    return figure
