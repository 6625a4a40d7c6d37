"""The goals: what must be reached, and how it is read from the results.

Each function makes a goal whose `judge` gives the value to show and whether it is good enough, or None where it was
not measured.
"""

from collections.abc import Callable
from dataclasses import dataclass

from results import Results

Judge = Callable[[Results], tuple[str, bool] | None]

TIMES = "\N{MULTIPLICATION SIGN}"
FOUR_THREADS, FOUR_TASKS, MANY_TASKS = (f"4 {TIMES} 250 threads", f"4 {TIMES} 250 tasks", f"1 {TIMES} 5,000 tasks")
COLD_START = f"1,000 keys {TIMES} 50 tasks, 4 processes"
THREADS, TASKS, EVENT, FUTURES = "tiercache, threads", "tiercache, tasks", "bare threading.Event", "bare futures"


@dataclass(frozen=True)
class Goal:
    """`what` must reach `must`."""

    what: str
    must: str
    judge: Judge


def at_most(what: str, limit: float, of: str, group: str, name: str) -> Goal:
    """A row takes at most so many times its yardstick's time."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row(group, name)
        ratio = results.ratio(row) if row else None
        return None if ratio is None else (f"{ratio:.2f} {TIMES}", ratio <= limit)

    return Goal(what, f"at most {limit:.2f} of {of}", judge)


def at_least(what: str, limit: float, of: str, group: str, name: str) -> Goal:
    """A row makes at least so many times its yardstick's calls per second."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row(group, name)
        ratio = results.ratio(row) if row else None
        return None if ratio is None else (f"{1 / ratio:.1f} {TIMES}", 1 / ratio >= limit)

    return Goal(what, f"at least {limit:g} {TIMES} {of}", judge)


def last_waiter(scene: str, arm: str, bare: str, seconds: float = 0.0, factor: float = 1.5) -> Goal:
    """The last waiter is there in time; without one, or with fewer cores than processes, as soon as bare ones are."""

    def judge(results: Results) -> tuple[str, bool] | None:
        ours, yardstick = results.row("herd", f"{scene}: {arm}"), results.row("herd", f"{scene}: {bare}")
        if ours is None or yardstick is None:
            return None
        starved = not seconds or results.machine["cores"] < ours["processes"]
        allowed = max(seconds, factor * yardstick["last"] if starved else 0.0)
        shown = f"{ours['last'] * 1e3:.1f} ms; {bare}: {yardstick['last'] * 1e3:.1f} ms"
        return shown, ours["last"] <= allowed

    beside = f"{factor:g} {TIMES} {bare}"
    must = f"{seconds * 1e3:g} ms; with fewer cores than processes, or {beside}" if seconds else beside
    return Goal(f"cold herd, {scene}: last waiter", f"at most {must}", judge)


def loads(scene: str, arm: str) -> Goal:
    """Each key is loaded once, in all processes together, in each of the herds."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row("herd", f"{scene}: {arm}")
        return None if row is None else (f"{row['loads']:,}", row["loads"] == row["keys"])

    return Goal(f"cold herd, {scene}: loads, most in any turn", "1 for each key", judge)


def commands(scene: str, arm: str, each: int) -> Goal:
    """A herd whose load ends within its first lease period costs so many Redis commands per process."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row("herd", f"{scene}: {arm}")
        if row is None:
            return None
        per_process = row["commands"] / row["processes"]
        return f"{per_process:.2f}", per_process <= each

    return Goal(f"cold herd, {scene}: Redis commands", f"at most {each} for each process", judge)


def processor(scene: str, arm: str, peer: str, part: int) -> Goal:
    """A herd costs at most this part of another cache's processor time, of all processes and of Redis."""

    def judge(results: Results) -> tuple[str, bool] | None:
        ours, theirs = results.row("herd", f"{scene}: {arm}"), results.row("herd", f"{scene}: {peer}")
        if ours is None or theirs is None:
            return None
        ratio = (ours["cpu"] + ours["redis_cpu"]) / (theirs["cpu"] + theirs["redis_cpu"])
        return f"{ratio:.2f} {TIMES}", ratio <= 1 / part

    return Goal(f"cold herd, {scene}: processor time", f"at most 1/{part} of {peer}", judge)


def size(limit: int) -> Goal:
    """An entry takes at most so many bytes beyond its key and value."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row("memory", "tiercache")
        if row is None:
            return None
        few = "" if row["entries"] >= 1_000_000 else f", with {row['entries']:,} entries"
        return f"{row['bytes']:.0f}{few}", row["bytes"] <= limit

    return Goal("bytes per entry, of a million", f"at most {limit}", judge)


LRU, GET, ASYNC = "functools.lru_cache", "`redis.Redis`", "`redis.asyncio`"
BARE, HERE = "a call for each", "one core"

GOALS = (
    at_most("`get`, a hit", 0.75, LRU, "hit", "`get`"),
    at_most("`get_or_load(..., ttl=60)`, a hit", 0.85, LRU, "hit", "`get_or_load`, `ttl=60`"),
    at_most("decorated, one int", 0.65, LRU, "hit-decorated", "decorated, one int"),
    at_most("decorated, one str", 0.65, LRU, "hit-decorated", "decorated, one str"),
    at_most("decorated, two arguments", 0.60, LRU, "hit-decorated", "decorated, two arguments"),
    at_most("decorated, one keyword", 0.35, LRU, "hit-decorated", "decorated, one keyword"),
    at_most("decorated method", 0.50, LRU, "hit-decorated", "decorated method"),
    at_most("decorated, awaited", 1.0, "an empty coroutine", "hit-async", "decorated, awaited"),
    at_most("a tier-2 hit", 0.80, f"{GET} and `unpackb`", "tier2", "`get`"),
    at_most("a tier-2 hit, processor time", 0.60, f"{GET} and `unpackb`", "tier2", "`get`, processor time"),
    at_least("tier 2, 16 threads: throughput", 3, f"a shared {GET}", "tier2-concurrent", "16 threads, `get`"),
    at_least("tier 2, 64 tasks: throughput", 5, ASYNC, "tier2-concurrent", "64 tasks, `aget`"),
    at_most("one async tier-2 read", 1.0, ASYNC, "tier2", "`aget`, one at a time"),
    at_most("a miss whose load takes no time", 4, f"{GET} `get`", "miss", "`get_or_load`"),
    at_most("waking 250 threads on one core, the last", 1.0, "a threading.Event", "waking", f"250 threads, {HERE}"),
    at_most("waking 250 tasks on one core, the last", 0.5, BARE, "waking", f"250 tasks, asyncio, {HERE}"),
    at_most("waking 250 tasks of uvloop on one core, the last", 0.9, BARE, "waking", f"250 tasks, uvloop, {HERE}"),
    size(96),
    last_waiter(FOUR_THREADS, THREADS, EVENT, 0.025),
    last_waiter(FOUR_TASKS, TASKS, FUTURES, 0.008),
    *(loads(*each) for each in ((FOUR_THREADS, THREADS), (FOUR_TASKS, TASKS), (COLD_START, TASKS))),
    commands(FOUR_THREADS, THREADS, 4),
    commands(FOUR_TASKS, TASKS, 4),
    processor(FOUR_THREADS, THREADS, "dogpile.cache", 3),
    processor(FOUR_TASKS, TASKS, "cashews", 3),
    last_waiter(MANY_TASKS, TASKS, FUTURES),
)
