"""Writes the figures and the picture of docs/popular.md: python benchmarks/day.py

A day of one item, and some items that are otherwise, each under several policies, by the shipped code in virtual time.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from report import BLOCK, PICTURES, ROOT, table
from virtual import HOUR, Course, Item, simulate

PAGE = ROOT / "docs" / "popular.md"
QUIET, BUSY, QUIETEST_HOUR = 0.02, 20.0, 4  # calls per second of the whole fleet, at the ends of its day
NIGHT = 0.2  # below it an hour counts as night: four processes of which each is asked `hot_rate` times a second
CROWD, EVERY = 20.0, 420.0
HOT = 0.05

Policies = Mapping[str, dict[str, Any]]
ARMS: Policies = {
    "no early refresh": {"beta": 0},
    "XFetch, the default": {},
    "refresh ahead": {"hot_rate": HOT},
}
OTHER_RATES: Policies = {
    "refresh ahead, hot_rate=1": {"refresh_ahead": True},
    "refresh ahead, also by night": {"hot_rate": 0.002, "half_life": 3600},
}
ALONE: Policies = {"refresh ahead, without XFetch": {"hot_rate": HOT, "beta": 0}}
PATIENT: Policies = {"refresh ahead, half_life=1800": {"hot_rate": HOT, "half_life": 1800}}


def day(seconds: float) -> float:
    """Calls per second, so long after midnight: a wave on a logarithmic scale."""
    height = math.log(BUSY / QUIET) / 2
    return math.sqrt(BUSY * QUIET) * math.exp(-height * math.cos(2 * math.pi * (seconds / HOUR - QUIETEST_HOUR) / 24))


def steady(seconds: float) -> float:
    return 5.0


def crowds(seconds: float) -> float:
    return 10.0 if seconds % EVERY < CROWD else 0.0


def forgotten(seconds: float) -> float:
    return 10.0 if seconds < 600 else 0.0


A_DAY = Item(day, load=3.0, hours=24)
CASES: dict[str, tuple[Item, Policies]] = {
    "5 calls/s, loader 0.05 s": (Item(steady, 0.05, 2), ARMS),
    "5 calls/s, loader 3 s": (Item(steady, 3.0, 2), ARMS),
    "5 calls/s, loader 100 s": (Item(steady, 100.0, 2), {**ARMS, **ALONE}),
    "5 calls/s, loader 180 s": (Item(steady, 180.0, 2), {**ARMS, **ALONE}),
    f"10 calls/s for {CROWD:.0f} s in every {EVERY / 60:.0f} min, loader 3 s": (
        Item(crowds, 3.0, 4),
        {**ARMS, **PATIENT},
    ),
    "10 calls/s for 10 min, then nobody": (Item(forgotten, 3.0, 2), {**ARMS, **PATIENT}),
}

Courses = dict[str, Course]


def run(item: Item, policies: Policies) -> Courses:
    """The item's course under each policy."""
    return {name: simulate(item, policy) for name, policy in policies.items()}


def day_table(courses: Courses) -> str:
    """A row for each policy: who waited by day and by night, how long at most, and the loads."""
    nights = {hour for hour in range(24) if day((hour + 0.5) * HOUR) < NIGHT}
    rows = []
    for name, course in courses.items():
        by_night = sum(course.waited[hour] for hour in nights)
        counts = (course.calls.total(), course.waited.total() - by_night, by_night)
        rows.append((name, *(f"{count:,}" for count in counts), _seconds(course.longest), f"{course.loads.total():,}"))
    nightly = f"{len(nights)} h of night"
    head = ("policy", "calls", f"waited in {24 - len(nights)} h of day", f"in {nightly}", "longest wait", "loads")
    return table(head, rows)


def cases_table(courses: dict[str, Courses]) -> str:
    """A row for each case and policy."""
    rows = []
    for case, of_case in courses.items():
        for number, (name, course) in enumerate(of_case.items()):
            loads = f"{course.loads.total() / CASES[case][0].hours:.1f}"
            counts = (f"{course.calls.total():,}", f"{course.waited.total():,}")
            rows.append(("" if number else case, name, *counts, _seconds(course.longest), loads))
    return table(("item", "policy", "calls", "waited", "longest wait", "loads per hour"), rows, left=(0, 1))


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds else "-"


def draw(courses: Courses, folder: Path) -> None:
    """Write day.svg: calls, callers who waited, and loads, for each hour."""
    import matplotlib.pyplot as plt
    from pictures import BARE, GREY, OURS, PEER, STYLE

    colours = (PEER, BARE, OURS)
    hours = range(24)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(3, 1, sharex=True, figsize=(7.5, 5.4), layout="constrained")
        axes[0].stairs(
            [next(iter(courses.values())).calls[hour] for hour in hours], range(25), baseline=None, color=GREY
        )
        for (name, course), colour in zip(courses.items(), colours, strict=False):
            for panel, counted in ((axes[1], course.waited), (axes[2], course.loads)):
                panel.stairs(
                    [counted[hour] for hour in hours], range(25), baseline=None, color=colour, label=name, linewidth=1.5
                )
        axes[0].set_yscale("log")
        axes[1].set_yscale("symlog", linthresh=10)
        axes[1].set_ylim(-0.5)
        axes[2].set_ylim(0)
        titles = ("calls per hour", "callers who waited, per hour; linear up to 10, then log scale", "loads per hour")
        for panel, title in zip(axes, titles, strict=True):
            panel.set_title(title, loc="left")
            panel.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        axes[1].legend(fontsize=8)
        axes[2].set_xlabel("hour of the day")
        axes[2].set_xticks(range(0, 25, 3))
        axes[2].set_xlim(0, 24)
        figure.savefig(folder / "day.svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def written(page: str, blocks: dict[str, Callable[[], str]]) -> str:
    """The page with these blocks; KeyError where it has one that nothing fills."""
    return BLOCK.sub(lambda block: f"{block['name']} -->\n\n{blocks[block['name']]()}\n\n", page)


def main() -> None:
    of_day = run(A_DAY, {**ARMS, **OTHER_RATES})
    of_cases = {case: run(item, policies) for case, (item, policies) in CASES.items()}
    blocks = {"day": lambda: day_table(of_day), "cases": lambda: cases_table(of_cases)}
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    draw({name: of_day[name] for name in ARMS}, PICTURES)


if __name__ == "__main__":
    main()
