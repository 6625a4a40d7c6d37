"""What a seed stands for: settings, a policy, calls and faults, as plain data that can be shortened and printed."""

from random import Random
from typing import Any, NamedTuple

from tiercache import Policy


class Act(NamedTuple):
    """One thing that happens at a time: `what` names a method of `run.Run`."""

    at: float
    what: str
    member: int
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:8.3f}  p{self.member}.{self.what}{self.args}"


class Load(NamedTuple):
    """How a loader runs: seconds, then "value", "large", "none", "raise", "interrupt" or the key of a nested call."""

    seconds: float
    ends: str


class History(NamedTuple):
    seed: int
    kind: str
    members: int
    settings: dict[str, Any]
    policy: Policy
    acts: list[Act]

    @property
    def until(self) -> float:
        return max((act.at for act in self.acts), default=0.0) + 0.5


KINDS = ("good", "chaos", "chaos", "chaos", "lasting", "down")
KEYS = ("a", "b")


def history(seed: int) -> History:
    """The history of a seed.

    good: no faults, so nothing may degrade. chaos: everything. lasting: leases that outlast the history, and broken
    connections; a lost wake-up shows as an endless wait. down: Redis is never reached. crash: nothing but that.
    """
    rng = Random(seed)
    kind = rng.choice(KINDS)
    if seed % 16 == 15:
        kind = "crash"
    members = rng.choice((1, 2, 2, 3, 3)) if kind not in ("lasting", "crash") else rng.choice((2, 2, 3))
    settings = {"push_bytes": rng.choice((0, 4096, 4096))}
    ttl = rng.choice((0.3, 1.0, 5.0))
    lease = 60.0 if kind == "lasting" else rng.choice((0.3, 0.3, 3.0))
    policy = Policy(
        ttl=ttl,
        jitter=rng.choice((0.0, 0.1)),
        beta=rng.choice((0.0, 1.0, 3.0)),
        stale_while_revalidate=rng.choice((0.0, 0.0, ttl)),
        stale_if_error=rng.choice((0.0, ttl, 10.0)),
        negative_ttl=rng.choice((0.0, 0.3)),
        local_ttl=rng.choice((0.1, 30.0)),
        lease=lease,
        max_load=600.0 if kind == "lasting" else rng.choice((4.0, 60.0)),
        timeout=rng.choice((None, None, None, 0.2)) if kind != "lasting" else None,
        soft_timeout=Random(f"soft {seed}").choice((None,) * 5 + (0.001, 0.02, 0.2)),  # leaves the rest as it was
        hot_rate=Random(f"ahead {seed}").choice((None,) * 4 + (0.1,)),  # and so does this
        half_life=0.5,
        on_abandon=rng.choice(("cancel", "cancel", "finish")),
        refresh=rng.choice(("background", "background", "caller")),
        error_backoff=rng.choice((0.1, 1.0)),
    )
    acts: list[Act] = []
    at = 0.0
    for _ in range(rng.choice((4, 6, 8, 12))):
        at += rng.choice((0.0, 0.0, 0.0, 0.0, 0.002, 0.01, 0.1, min(lease, 3.0) + 0.1, ttl / 2, ttl))
        acts.append(_act(rng, kind, at, rng.randrange(members), ttl))
    if kind in ("chaos", "lasting"):
        times = [act.at for act in acts]
        for _ in range(rng.choice((1, 2, 3, 5) if kind == "chaos" else (3, 5, 8))):
            near = rng.choice(times) + rng.choice((0.0, 0.001, 0.003, 0.01, 0.05, 0.2, 0.5))
            acts.append(_fault(rng, kind, near, rng.randrange(members)))
    if kind == "crash":
        for member in range(members - 1):
            acts.append(Act(rng.choice(acts).at + rng.choice((0.001, 0.003, 0.05, 0.2)), "crash", member))
    if seed % 8 == 3:
        acts = [act._replace(what="swap") if act.what == "write" else act for act in acts]
    return History(seed, kind, members, settings, policy, sorted(acts, key=lambda act: act.at))


def _act(rng: Random, kind: str, at: float, member: int, ttl: float) -> Act:
    key = KEYS[0] if rng.random() < 0.8 else KEYS[1]
    what = rng.random()
    if what < 0.78 or (kind == "down" and what < 0.9):
        seconds = rng.choice((0.0, 0.005, 0.05, 0.3, 0.3, 1.5 if kind != "good" else 0.5))
        if kind == "chaos" and rng.random() < 0.03:
            seconds = 6.0  # past the shorter max_load
        other = KEYS[1] if key == KEYS[0] else KEYS[0]
        ends = rng.choice(
            ("value", "value", "value", "value", "value", "large", "none", "raise", "nested", "interrupt")
        )
        if kind in ("good", "lasting") and ends in ("nested", "interrupt"):
            ends = "value"
        load = Load(seconds, other if ends == "nested" else ends)
        cancel = rng.choice((None, None, None, 0.001, 0.02, 0.3)) if kind != "good" else None
        colour = rng.choice(("task", "task", "thread"))
        how = rng.choices(("load", "get", "refresh"), (18, 2, 1))[0]
        return Act(at, "call", member, (key, colour, how, load, cancel))
    if what < 0.92:
        return Act(at, "invalidate", member, (key, rng.choice((False, False, True))))
    return Act(at, "write", member, (key, rng.choice((0, 0, 5000))))


def _fault(rng: Random, kind: str, at: float, member: int) -> Act:
    length = rng.choice((0.01, 0.1, 0.5, 2.0))
    cut = rng.choice((0.0, 0.0, 0.01, 1.0))
    if kind == "lasting":
        return rng.choice((Act(at, "cut_inbox", member, (cut,)), Act(at, "slow", member, (length, 0.048, 0.3))))
    what, args = rng.choice(
        (
            ("crash", ()),
            ("join", ()),
            ("fork", ()),
            ("pause", (length,)),
            ("pause", (length,)),
            ("cut_inbox", (cut,)),
            ("cut_inbox", (cut,)),
            ("cut_off", (length,)),
            ("lose", (length, 1.0, 0.0)),
            ("lose", (length, 0.0, 1.0)),
            ("lose", (length, 0.4, 0.4)),
            ("slow", (length, rng.choice((0.05, 0.1, 0.5)), 0.0)),
            ("slow", (length, 0.0, rng.choice((0.1, 1.5)))),
            ("slow", (length, 0.3, 1.0)),
            ("evict", (rng.choice(KEYS), rng.choice("vlf"))),
            ("restart_redis", ()),
            ("script_flush", ()),
            ("fill_up", (length,)),
        )
    )
    return Act(at, what, member, args)
