"""The remote of a cache without Redis: it holds nothing and grants at once."""

from collections import OrderedDict

from tiercache.local.record import Found, Record
from tiercache.policy import Policy
from tiercache.port import Cooldown, Granted, Lease, Port


class Alone:
    """Every process is its own fleet."""

    shared = False

    def __init__(self) -> None:
        self._failures: OrderedDict[str, int] = OrderedDict()

    def remaining(self) -> float:
        return 0.0

    def failure(self, message: bytes) -> Cooldown:
        raise NotImplementedError("nobody sends messages here")

    async def read(self, io: Port, key: str) -> Found:
        return Found(None, 0.0)

    async def read_many(self, io: Port, keys: list[str]) -> list[Found]:
        return [Found(None, 0.0)] * len(keys)

    async def acquire(self, io: Port, lease: Lease, known: bytes, listen: bool) -> Granted:
        lease.attempt += 1
        return Granted(lease.attempt)

    async def commit(self, io: Port, lease: Lease, record: Record | None, announce: bool) -> bool:
        self._failures.pop(lease.key, None)
        return not lease.lost

    async def renew(self, io: Port, leases: list[Lease]) -> list[bool]:
        return [True] * len(leases)

    async def release(
        self, io: Port, lease: Lease, error: BaseException | None = None, policy: Policy | None = None
    ) -> float:
        if error is None or policy is None:
            return 0.0
        count = self._failures.pop(lease.key, 0) + 1
        self._failures[lease.key] = count
        while len(self._failures) > 1000:
            self._failures.popitem(last=False)
        return float(min(policy.error_backoff_max, policy.error_backoff * 2 ** min(count - 1, 40)))

    async def write_many(self, io: Port, records: list[tuple[str, Record]]) -> None:
        pass

    async def invalidate(self, io: Port, keys: list[str], soft: bool) -> None:
        for key in keys:
            self._failures.pop(key, None)
