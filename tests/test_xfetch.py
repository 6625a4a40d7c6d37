"""XFetch against its formulas: protocol section 5. Time is simulated and chance is seeded."""

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.special import exp1
from scipy.stats import kstest

from tiercache.local.face import Face
from tiercache.local.table import Mode, Table, Verdict
from tiercache.local.xfetch import due, window


def reads(chance: random.Random, rate: float, left: float) -> Iterator[tuple[float, float]]:
    """Poisson reads of one expiry: the freshness left at each, from `left` down to 0, and its draw."""
    while True:
        left -= chance.expovariate(rate)
        if left <= 0:
            return
        yield left, 1.0 - chance.random()


def first_refresh(chance: random.Random, rate: float, theta: float) -> float:
    """The freshness left at the first read that refreshes early, 0 if there is none."""
    for left, draw in reads(chance, rate, 14 * theta):
        if due(left, theta, draw):
            return left
    return 0.0


@pytest.mark.parametrize(("load", "theta"), [(2.0, 0.3), (5.0, 0.3), (20.0, 0.05)])
def test_the_first_refresh_follows_the_gumbel_law(load: float, theta: float) -> None:
    """P(first refresh with at most x left) is exp(-L e^(-x/theta)): Kolmogorov-Smirnov, where there is a refresh."""
    chance = random.Random(1)
    firsts = [first_refresh(chance, load / theta, theta) for _ in range(2500)]
    early = [left for left in firsts if left > 0]
    none = math.exp(-load)

    def law(left: Any) -> Any:
        return (np.exp(-load * np.exp(-left / theta)) - none) / (1 - none)

    assert kstest(early, law).pvalue > 0.01
    expected = len(firsts) * none
    assert abs(firsts.count(0.0) - expected) < 3 * math.sqrt(expected) + 1


def test_the_mean_lifetime_given_up_is_as_computed() -> None:
    """Its mean is theta (ln L + 0.5772 + E1(L)), within three standard errors."""
    chance, load, theta, count = random.Random(2), 5.0, 1.0, 2500
    firsts = [first_refresh(chance, load / theta, theta) for _ in range(count)]
    mean = sum(firsts) / count
    deviation = math.sqrt(sum((first - mean) ** 2 for first in firsts) / count)
    assert abs(mean - theta * (math.log(load) + 0.5772157 + exp1(load))) < 3 * deviation / math.sqrt(count)


@pytest.mark.parametrize("load", [0.25, 1.0, 2.0])
def test_a_cold_key_misses_as_often_as_computed(load: float) -> None:
    """Nobody refreshes before the expiry with probability e^(-L), within three sigma."""
    chance, count = random.Random(3), 10_000
    missed = sum(first_refresh(chance, load, 1.0) == 0 for _ in range(count)) / count
    expected = math.exp(-load)
    assert abs(missed - expected) < 3 * math.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize(("beta", "slowness"), [(1.0, 1.0), (1.5, 1.0), (2.0, 1.0), (1.0, 1.5)])
def test_attempts_without_a_lease_are_as_computed(beta: float, slowness: float) -> None:
    """While the first refresh runs for D, others start too: geometric with mean e^(D/theta), within three sigma."""
    chance, count, delta = random.Random(4), 1500, 1.0
    theta, load = beta * delta, 60.0
    attempts = []
    for _ in range(count):
        begun: list[float] = []
        for left, draw in reads(chance, load / theta, 12 * theta):
            if begun and left < begun[0] - slowness * delta:
                break
            if due(left, theta, draw):
                begun.append(left)
        attempts.append(len(begun))
    mean = math.exp(slowness * delta / theta)
    deviation = math.sqrt(mean * (mean - 1) / count)
    assert abs(sum(attempts) / count - mean) < 3 * deviation


def test_one_attempt_with_a_flight() -> None:
    """Through the table, the same reads start exactly one refresh per expiry, however slow the load is."""
    chance = random.Random(5)
    table = Table()
    for _ in range(50):
        flight = table.probe("k", 0.0, mode=int(Mode.FORCE))[1]
        table.settle(flight, 1, (1, 100.0, 100.0, math.inf, 0.25, 1.0, table.stamp(), b"", 0))
        verdicts = [table.probe("k", 100.0 - left, draw)[0] for left, draw in reads(chance, 200.0, 21 * 0.25)]
        assert verdicts.count(Verdict.DUE) == 1
        assert set(verdicts) == {Verdict.HIT, Verdict.DUE}
        table.cut("k")


def test_no_coin_is_lost_outside_the_window() -> None:
    """Beyond 21 theta a refresh would begin with p < 1e-9, and there the hit is one compare."""
    theta = 0.5
    assert math.exp(-21) < 1e-9
    assert window(theta) == 21 * theta
    assert not due(window(theta), theta, 1e-9)
    assert due(window(theta) - 0.2, theta, 1e-9)
    now = 0.0
    table = Table()
    face = Face(table, lambda: now)
    flight = table.probe("k", 0.0)[1]
    table.settle(flight, 1, (1, 100.0, 100.0, math.inf, 0.25, 2.0, table.stamp(), b"", 0))
    now = 100.0 - window(theta) - 1e-9
    assert face.get("k") == 1
    now = 100.0 - window(theta)
    with pytest.raises(AttributeError):  # the long way, where the coin is tossed
        face.get("k")


@pytest.mark.parametrize("theta", [0.0, -1.0, math.nan])
def test_no_theta_no_coin(theta: float) -> None:
    """Beta 0 switches early refreshes off, whatever is drawn."""
    assert not any(due(left, theta, draw) for left in (-1.0, 0.0, 1e-9, 5.0) for draw in (1e-300, 0.5, 1.0))


def test_the_coin_at_its_limits() -> None:
    """The draw 1 is never due before the end and always at it; the draw 0 would always be."""
    assert not due(1e-300, 1.0, 1.0)
    assert due(0.0, 1.0, 1.0)
    assert due(1e9, 1.0, 0.0)
    assert due(1.0, 1.0, math.exp(-1.0) * (1 - 1e-12))
    assert not due(1.0, 1.0, math.exp(-1.0) * (1 + 1e-12))
    assert not due(1.0, 1.0, math.nan)
    assert type(due(1.0, 1.0, 0.5)) is bool
