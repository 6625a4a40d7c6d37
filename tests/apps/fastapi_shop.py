"""A shop on FastAPI: every kind of endpoint reads through one cache, in front of a slow supplier."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from tiercache import Cache

# Patient with a busy machine; the defaults are 0.25, 0.1 and 0.5 seconds.
cache = Cache(os.environ["SHOP_CACHE_URL"], namespace="shop", connect_timeout=2, call_timeout=2, call_budget=5)
supplier = httpx.AsyncClient(base_url=os.environ["SHOP_SUPPLIER"], timeout=60)
blocking_supplier = httpx.Client(base_url=os.environ["SHOP_SUPPLIER"], timeout=60)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await cache.aping()  # fail at the start rather than load around a Redis that refuses
    async with supplier, cache:  # the cache ends before what its loaders use
        yield
    blocking_supplier.close()


app = FastAPI(lifespan=lifespan)


def content(answer: httpx.Response) -> Any:
    return None if answer.status_code == 404 else answer.raise_for_status().json()


@cache.cached("item:{item_id}", ttl=300)
async def load_item(item_id: int) -> Any:
    return content(await supplier.get(f"/items/{item_id}"))


async def known_item(item_id: int) -> Any:
    if (item := await load_item(item_id)) is None:
        raise HTTPException(404)
    return item


@app.get("/items/{item_id}")
async def read_item(item: Annotated[Any, Depends(known_item)]) -> Any:
    return item


@app.get("/threads/{item_id}")  # FastAPI runs it in a thread: the same key, the same lease
def load_item_in_sync_code(item_id: int) -> Any:
    return cache.get_or_load(load_item.key(item_id), lambda: content(blocking_supplier.get(f"/items/{item_id}")))


@app.get("/helpers/{item_id}")
async def read_item_with_a_sync_helper(item_id: int) -> Any:
    return load_item_in_sync_code(item_id)  # blocks the loop, but never waits for a load on it


@app.get("/feeds/{item_id}")
async def read_feed(item_id: int) -> StreamingResponse:
    return StreamingResponse(f"{await load_item(each)}\n" for each in [item_id])  # cancelled if the client goes


@app.get("/offer")
@cache.cached("offer", ttl=1, stale_while_revalidate=60)  # refreshed behind the response
async def read_offer() -> Any:
    return content(await supplier.get("/offer"))


@app.delete("/items/{item_id}")
async def forget_item(item_id: int) -> None:
    await load_item.invalidate(item_id)


@app.get("/health")
async def health() -> dict[str, int]:
    await cache.aping()
    return cache.stats()
