"""docs/popular.md's picture of a day: a short form of what draws it, and that the page is what it writes."""

import math
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import day
import virtual

BUSY = virtual.Item(lambda seconds: 2.0, load=3.0)


@pytest.fixture(scope="module")
def hour() -> day.Courses:
    """An hour of an item that is asked for twice a second, under each policy."""
    return day.run(BUSY, {**day.ARMS, **day.ALONE})


def test_refresh_ahead_keeps_nobody_waiting(hour: day.Courses) -> None:
    """Alone and beside XFetch; the values live nearly as long as they may."""
    for name in ("refresh ahead", "refresh ahead, without XFetch"):
        course = hour[name]
        assert course.waited.total() == 0
        assert course.longest == 0
        assert 12 <= course.loads.total() <= 15
        assert course.stats["refreshes_ahead"] >= course.loads.total() > 0


def test_without_early_refresh_callers_wait_at_each_end(hour: day.Courses) -> None:
    """The whole load time at most, and at least one caller for each load."""
    course = hour["no early refresh"]
    assert course.waited.total() > course.loads.total() >= 11
    assert course.longest == pytest.approx(3.0)
    assert course.stats["early_refreshes"] == 0


def test_every_call_is_counted_and_nothing_is_bypassed(hour: day.Courses) -> None:
    """The shipped counters agree: each call is a hit, a wait or a look at Redis, each load has one lease."""
    for course in hour.values():
        stats = course.stats
        assert 6000 < course.calls.total() < 8500
        assert stats["loads"] == stats["grants"] == course.loads.total() + 1
        assert stats["commits"] >= stats["loads"] - 1  # the last one may run when the hour ends
        assert not any(count for name, count in stats.items() if name.startswith("bypass_"))
        assert stats["leases_lost"] == stats["load_failures"] == stats["breaker_opened"] == 0


def test_the_same_seed_gives_the_same_course() -> None:
    """The figures of the page can be made again."""
    item = virtual.Item(lambda seconds: 0.5, load=3.0)
    first, second = (virtual.simulate(item, {}, seed=7) for _ in range(2))
    assert (first.calls, first.waited, first.loads) == (second.calls, second.waited, second.loads)


def test_a_loop_on_which_nothing_will_happen_says_so() -> None:
    """Where time would pass for ever."""
    loop = virtual.Loop()
    with pytest.raises(RuntimeError, match="everybody waits"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_the_day_has_its_ends() -> None:
    """Quiet in the night, busy half a day later."""
    assert day.day(day.QUIETEST_HOUR * virtual.HOUR) == pytest.approx(day.QUIET)
    assert day.day((day.QUIETEST_HOUR + 12) * virtual.HOUR) == pytest.approx(day.BUSY)
    assert math.isclose(day.day(0), day.day(24 * virtual.HOUR))


def test_the_page_is_what_the_program_writes() -> None:
    """Its blocks are known, and their tables have the rows of the program."""
    page = day.PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- figures: (\w+) -->\n\n(.+?)\n\n<!-- end of figures", page, re.S)
    assert [name for name, _ in blocks] == ["day", "cases"]
    first = [row.split("|")[1].strip() for row in blocks[0][1].splitlines()[2:]]
    assert first == [*day.ARMS, *day.OTHER_RATES]
    items = [row.split("|")[1:3] for row in blocks[1][1].splitlines()[2:]]
    wanted = [name for _, policies in day.CASES.values() for name in policies]
    assert [name.strip() for _, name in items] == wanted
    assert [item.strip() for item, _ in items if item.strip()] == list(day.CASES)
    with pytest.raises(KeyError, match="cases"):
        day.written(page, {"day": lambda: ""})
    assert "(pictures/day.svg)" in page
    assert (day.PICTURES / "day.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_the_picture_is_drawn(hour: day.Courses, tmp_path: Path) -> None:
    """With a name for each policy."""
    pytest.importorskip("matplotlib")
    day.draw({name: hour[name] for name in day.ARMS}, tmp_path)
    drawn = (tmp_path / "day.svg").read_text(encoding="utf-8")
    assert all(name in drawn for name in day.ARMS)
