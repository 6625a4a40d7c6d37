"""The shop's cached queries."""

import logging

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.http import Http404

from shop.models import Item
from tiercache import Cache
from tiercache.contrib.django import own_connections

log = logging.getLogger(__name__)
cache = Cache(
    settings.REDIS_URL,
    namespace="shop-data",
    around_load=own_connections,
    connect_timeout=5,  # patient with a busy machine; the defaults are 0.25, 0.1 and 0.5 seconds
    call_timeout=5,
    call_budget=20,
)


@cache.cached("item:{pk}", negative_errors=(Item.DoesNotExist,))
def item(pk: int) -> dict[str, object]:
    log.info("loading item:%d", pk)
    return Item.objects.values("id", "name", "price").get(pk=pk)


@cache.cached("aitem:{pk}", negative_errors=(Http404,))
async def aitem(pk: int) -> dict[str, object]:
    log.info("loading aitem:%d", pk)
    found = await Item.objects.filter(pk=pk).values("id", "name", "price").afirst()
    if found is None:
        raise Http404(f"no item {pk}")
    return found


@cache.cached("total", ttl=0.2, jitter=0, beta=0, stale_while_revalidate=600)  # refreshed behind its callers
def total() -> int:
    log.info("loading total")
    return sum(Item.objects.values_list("price", flat=True))


@receiver([post_save, post_delete], sender=Item)
def forget_item(instance: Item, **kwargs: object) -> None:
    pk = instance.pk  # post_delete clears it later
    transaction.on_commit(lambda: item.invalidate(pk))
