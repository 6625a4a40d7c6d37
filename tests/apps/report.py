"""A nightly report, python report.py fork|forkserver|spawn: its processes and event loops share what they load."""

import asyncio
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import httpx

from tiercache import Cache

cache = Cache(os.environ["SHOP_CACHE_URL"], namespace="shop", connect_timeout=2, call_timeout=2, call_budget=5)


def supplied(path: str) -> Any:
    return httpx.get(os.environ["SHOP_SUPPLIER"] + path, timeout=60).raise_for_status().json()


@cache.cached("offer", ttl=3600)
def offer() -> Any:
    return supplied("/offer")


@cache.cached("item:{item_id}", ttl=3600)
async def item(item_id: int) -> Any:
    return await asyncio.to_thread(supplied, f"/items/{item_id}")


async def items() -> list[Any]:
    return await asyncio.gather(*[item(item_id) for item_id in (1, 2, 3)])


def line(customer: int) -> str:
    paths = [each["path"] for each in [offer(), *asyncio.run(items())]]  # an event loop for each line
    return f"customer {customer}: {', '.join(paths)}"


if __name__ == "__main__":
    with ProcessPoolExecutor(4, mp_context=get_context(sys.argv[1])) as pool:
        print(*pool.map(line, range(20)), sep="\n")
    with cache:
        print(line(20), cache.stats()["loads"])
