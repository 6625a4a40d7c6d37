"""A shop's background work on Celery: tasks that read through the cache."""

import os
from typing import Any

import httpx
from celery import Celery
from celery.signals import worker_init
from celery.utils.log import get_task_logger

from tiercache import Cache

log = get_task_logger(__name__)
app = Celery("shop", broker=os.environ["SHOP_BROKER_URL"], backend=os.environ["SHOP_BROKER_URL"])
cache = Cache(
    os.environ["SHOP_CACHE_URL"],
    namespace="shop",
    connect_timeout=2,  # patient with a busy machine; the defaults are 0.25, 0.1 and 0.5 seconds
    call_timeout=2,
    call_budget=5,
)


@worker_init.connect
def check(**unused: object) -> None:
    cache.ping()  # in the parent: its children are forked with a cache that is connected


@cache.cached("item:{item_id}", ttl=300)
def load_item(item_id: int) -> dict[str, Any]:
    log.info("loading item %d", item_id)
    return httpx.get(f"{os.environ['SHOP_SUPPLIER']}/items/{item_id}", timeout=60).raise_for_status().json()


@app.task
def advertise(item_id: int, customer: str) -> str:
    return f"Dear {customer}, buy {load_item(item_id)}"


@app.task
def item_changed(item_id: int) -> None:
    load_item.invalidate(item_id)
