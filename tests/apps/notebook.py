# %% A shop's notebook: its cells share one cache and the kernel's event loop.
import asyncio
import os
from typing import Any

import httpx

from tiercache import Cache

cache = Cache(os.environ["SHOP_CACHE_URL"], namespace="shop", connect_timeout=2, call_timeout=2, call_budget=5)
supplier = httpx.AsyncClient(base_url=os.environ["SHOP_SUPPLIER"], timeout=60)


@cache.cached("item:{item_id}", ttl=300)
async def load_item(item_id: int) -> dict[str, Any]:
    return (await supplier.get(f"/items/{item_id}")).raise_for_status().json()


@cache.cached("offer", ttl=300)
def load_offer() -> dict[str, Any]:
    return httpx.get(f"{os.environ['SHOP_SUPPLIER']}/offer", timeout=60).raise_for_status().json()


# %% await at the top of a cell
await load_item(1)

# %% a plain call
load_offer()

# %% many at once
await asyncio.gather(*[load_item(n) for n in (1, 2, 2, 1)])

# %% either colour finds what the other has loaded
[cache.get("item:2"), await cache.aget("offer")]
