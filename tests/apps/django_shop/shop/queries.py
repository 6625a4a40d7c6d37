"""The shop's cached queries. Each load is counted in Redis, and takes as long as a query might."""

import time

import redis
from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.http import Http404

from shop.models import Item
from tiercache import Cache
from tiercache.contrib.django import own_connections

cache = Cache(
    settings.REDIS_URL,
    namespace="shop-data",
    around_load=own_connections,
    connect_timeout=5,
    call_timeout=5,
    call_budget=20,
)


def count(name: str) -> None:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.incr(f"loads:{name}")


def slow(name: str) -> None:
    count(name)
    time.sleep(0.3)  # the time of a query: long enough for a herd to gather


@cache.cached("item:{pk}", negative_errors=(Item.DoesNotExist,))
def item(pk: int) -> dict[str, object]:
    slow(f"item:{pk}")
    return Item.objects.values("id", "name", "price").get(pk=pk)


@cache.cached("aitem:{pk}", negative_errors=(Http404,))
async def aitem(pk: int) -> dict[str, object]:
    count(f"aitem:{pk}")
    found = await Item.objects.filter(pk=pk).values("id", "name", "price").afirst()
    if found is None:
        raise Http404(f"no item {pk}")
    return found


@cache.cached("total", ttl=0.2, jitter=0, beta=0, stale_while_revalidate=600)
def total() -> int:
    """Refreshed behind its callers: every 0.2 s at most."""
    count("total")
    return sum(Item.objects.values_list("price", flat=True))


@receiver([post_save, post_delete], sender=Item)
def forget_item(instance: Item, **kwargs: object) -> None:
    pk = instance.pk
    transaction.on_commit(lambda: item.invalidate(pk))
