"""The goals: what must be reached, and how it is read from the results."""

from collections.abc import Callable
from dataclasses import dataclass

from results import Results

Judge = Callable[[Results], tuple[str, bool] | None]


@dataclass(frozen=True)
class Goal:
    """`judge` gives the value to show and whether the goal is met; None where it was not measured."""

    what: str
    must: str
    judge: Judge


def at_most(limit: float, group: str, name: str, field: str = "seconds") -> Judge:
    """A row's figure is at most so many times its yardstick's."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row(group, name)
        ratio = results.ratio(row, field) if row else None
        return None if ratio is None else (f"{ratio:.2f} \N{MULTIPLICATION SIGN}", ratio <= limit)

    return judge


def at_least(limit: float, group: str, name: str) -> Judge:
    """A row's calls per second are at least so many times its yardstick's."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row(group, name)
        ratio = results.ratio(row) if row else None
        return None if ratio is None else (f"{1 / ratio:.1f} \N{MULTIPLICATION SIGN}", 1 / ratio >= limit)

    return judge


def last_waiter(scene: str, arm: str, bare: str, limit: float | None, factor: float = 1.5) -> Judge:
    """The last waiter is there within a time; with fewer cores than processes, or without a time, as bare ones are."""

    def judge(results: Results) -> tuple[str, bool] | None:
        ours, yardstick = results.row("herd", f"{scene}: {arm}"), results.row("herd", f"{scene}: {bare}")
        if ours is None or yardstick is None:
            return None
        starved = results.machine["cores"] < ours["processes"] or limit is None
        allowed = max(limit or 0.0, factor * yardstick["last"] if starved else 0.0)
        shown = f"{ours['last'] * 1e3:.1f} ms; {bare}: {yardstick['last'] * 1e3:.1f} ms"
        return shown, ours["last"] <= allowed

    return judge


def commands(scene: str, arm: str, each: int) -> Judge:
    """A herd costs so many Redis commands per process."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row("herd", f"{scene}: {arm}")
        return None if row is None else (f"{row['commands']}", row["commands"] <= each * row["processes"])

    return judge


def processor(scene: str, arm: str, peer: str, part: float) -> Judge:
    """A herd costs at most this part of another cache's processor time, of all processes and of Redis."""

    def judge(results: Results) -> tuple[str, bool] | None:
        ours, theirs = results.row("herd", f"{scene}: {arm}"), results.row("herd", f"{scene}: {peer}")
        if ours is None or theirs is None:
            return None
        ratio = (ours["cpu"] + ours["redis_cpu"]) / (theirs["cpu"] + theirs["redis_cpu"])
        return f"{ratio:.2f} \N{MULTIPLICATION SIGN}", ratio <= part

    return judge


def size(limit: float) -> Judge:
    """An entry takes at most so many bytes beyond its key and value."""

    def judge(results: Results) -> tuple[str, bool] | None:
        row = results.row("memory", "tiercache")
        if row is None:
            return None
        few = "" if row["entries"] >= 1_000_000 else f", with {row['entries']:,} entries"
        return f"{row['bytes']:.0f}{few}", row["bytes"] <= limit

    return judge


FOUR_THREADS, FOUR_TASKS = (f"4 \N{MULTIPLICATION SIGN} 250 {colour}" for colour in ("threads", "tasks"))
MANY_TASKS = "1 \N{MULTIPLICATION SIGN} 5,000 tasks"
THREADS, TASKS, EVENT, FUTURES = "tiercache, threads", "tiercache, tasks", "bare threading.Event", "bare futures"

GOALS = (
    Goal("`get`, a hit", "at most 0.75 of lru_cache", at_most(0.75, "hit", "`get`")),
    Goal(
        "`get_or_load(..., ttl=60)`, a hit",
        "at most 0.85 of lru_cache",
        at_most(0.85, "hit", "`get_or_load`, `ttl=60`"),
    ),
    Goal("decorated, one int", "at most 0.65 of lru_cache", at_most(0.65, "hit-decorated", "decorated, one int")),
    Goal("... one str", "at most 0.65 of lru_cache", at_most(0.65, "hit-decorated", "decorated, one str")),
    Goal("... two arguments", "at most 0.60 of lru_cache", at_most(0.60, "hit-decorated", "decorated, two arguments")),
    Goal("... one keyword", "at most 0.35 of lru_cache", at_most(0.35, "hit-decorated", "decorated, one keyword")),
    Goal("... a method", "at most 0.50 of lru_cache", at_most(0.50, "hit-decorated", "decorated method")),
    Goal("decorated, awaited", "at most 1.0 of an empty coroutine", at_most(1.0, "hit-async", "decorated, awaited")),
    Goal("a tier-2 hit", "at most 0.80 of `Redis.get` and `unpackb`", at_most(0.80, "tier2", "`get`")),
    Goal("... its processor time", "at most 0.60 of the same", at_most(0.60, "tier2", "`get`, processor time")),
    Goal(
        "tier 2, 16 threads: throughput",
        "at least 3 of a shared `redis.Redis`",
        at_least(3, "tier2-concurrent", "16 threads, `get`"),
    ),
    Goal(
        "tier 2, 64 tasks: throughput",
        "at least 5 of `redis.asyncio`",
        at_least(5, "tier2-concurrent", "64 tasks, `aget`"),
    ),
    Goal("one async tier-2 read", "at most 1.0 of `redis.asyncio`", at_most(1.0, "tier2", "`aget`, one at a time")),
    Goal("a miss whose load takes no time", "at most 4 of `Redis.get`", at_most(4, "miss", "`get_or_load`")),
    Goal("waking 250 threads, the last", "at most 1.0 of a threading.Event", at_most(1.0, "waking", "250 threads")),
    Goal("waking 250 tasks, the last", "at most 0.5 of a call for each", at_most(0.5, "waking", "250 tasks, asyncio")),
    Goal("... on uvloop", "at most 0.9 of a call for each", at_most(0.9, "waking", "250 tasks, uvloop")),
    Goal("bytes per entry, of a million", "at most 96", size(96)),
    Goal(
        f"cold herd, {FOUR_THREADS}: last waiter",
        "at most 25 ms; with fewer cores than processes also at most 1.5 of bare events",
        last_waiter(FOUR_THREADS, THREADS, EVENT, 0.025),
    ),
    Goal(
        f"cold herd, {FOUR_TASKS}: last waiter",
        "at most 8 ms; with fewer cores than processes also at most 1.5 of bare futures",
        last_waiter(FOUR_TASKS, TASKS, FUTURES, 0.008),
    ),
    Goal("... Redis commands, threads", "at most 16: 4 for each process", commands(FOUR_THREADS, THREADS, 4)),
    Goal("... Redis commands, tasks", "at most 16: 4 for each process", commands(FOUR_TASKS, TASKS, 4)),
    Goal(
        "... processor time, threads",
        "at most 1/3 of dogpile.cache",
        processor(FOUR_THREADS, THREADS, "dogpile.cache", 1 / 3),
    ),
    Goal("... processor time, tasks", "at most 1/3 of cashews", processor(FOUR_TASKS, TASKS, "cashews", 1 / 3)),
    Goal(
        "5,000 tasks, one key: last waiter",
        "at most 1.5 of bare futures",
        last_waiter(MANY_TASKS, TASKS, FUTURES, None),
    ),
)
