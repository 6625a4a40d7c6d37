"""A popular item never expires under load: no caller waits for its loader, however often it ends."""

from collections.abc import Callable

import pytest
from members import Marks, Member
from popular import WAITS, asks
from redis_server import RedisServer
from test_flow import BYPASSES

pytestmark = pytest.mark.steady
TTL = 2.4


@pytest.mark.parametrize("beta", [0.0, 1.0], ids=["refresh ahead alone", "and xfetch"])
def test_no_caller_waits_while_the_loader_works(
    redis_server: RedisServer,
    namespace: str,
    start: Callable[..., Member],
    amount: Callable[[int, int], int],
    beta: float,
) -> None:
    """Four processes, a loader that takes a third of the ttl, 100 expiries (8 in the short form): one load for each.

    Nobody misses, joins a load or waits for a lease, and nobody gets a value that is older than it may be.
    """
    policy = {"ttl": TTL, "beta": beta, "stale_if_error": 0, "hot_rate": 5, "half_life": 1}
    marks = Marks(redis_server.url, namespace)
    asking = [start(asks, policy, colour, TTL / 3) for colour in ("threads", "tasks") * 2]
    for member in asking:
        assert member.hear() == "ready"
    for expiry in range(1, amount(8, 100) + 1):
        marks.until_counted("popular", "loaded", expiry + 1)
    for member in asking:
        member.tell("stop")
    heard: list[tuple[dict[str, int], float]] = [member.hear() for member in asking]
    for stats, oldest in heard:
        waited = {name: stats[name] for name in (*WAITS, *BYPASSES) if stats[name]}
        assert not waited
        assert stats["hits_local"] > 100
        assert oldest <= TTL
    loads = [at for word, at in marks.all("popular") if word == "loading"]
    ends = [at for word, at in marks.all("popular") if word == "loaded"]
    assert all(ended <= next_ for ended, next_ in zip(ends, loads[1:], strict=False)), "two loads at once"
    marks.close()
