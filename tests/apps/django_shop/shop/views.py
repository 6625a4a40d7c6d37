"""The shop's pages."""

import logging
import os
import threading

from django.core.cache import cache
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.views.decorators.cache import cache_page

from shop import queries
from shop.models import Item

log = logging.getLogger(__name__)


def item(request: HttpRequest, pk: int) -> JsonResponse:
    try:
        return JsonResponse(queries.item(pk))
    except Item.DoesNotExist:
        raise Http404 from None


async def aitem(request: HttpRequest, pk: int) -> JsonResponse:
    return JsonResponse(await queries.aitem(pk))  # a cached Http404 is Django's 404 page


def price(request: HttpRequest, pk: int, price: int) -> JsonResponse:
    """Change a price, or with `?try` see what that would do."""
    with transaction.atomic():
        item = Item.objects.get(pk=pk)
        item.price = price
        item.save()
        inside = queries.item.__wrapped__(pk)
        transaction.set_rollback("try" in request.GET)
    return JsonResponse(inside)


def load_items(colour: str) -> list[Item]:
    log.info("loading %s prices", colour)
    return list(Item.objects.order_by("pk"))


def prices(request: HttpRequest) -> JsonResponse:
    items = cache.get_or_set("prices", lambda: load_items("sync"))
    return JsonResponse({item.name: item.price for item in items})


async def aprices(request: HttpRequest) -> JsonResponse:
    items = await cache.aget_or_set("aprices", lambda: load_items("async"))  # the lambda runs in a thread
    return JsonResponse({item.name: item.price for item in items})


def basket(request: HttpRequest, pk: int) -> JsonResponse:
    """Put an item into the session's basket, or with `?try` see what that would do."""
    request.session.setdefault("basket", []).append(pk)
    if "try" not in request.GET:
        request.session.modified = True
    return JsonResponse({"basket": request.session["basket"]})


@cache_page(60)
def page(request: HttpRequest) -> HttpResponse:
    log.info("loading page")
    return HttpResponse(f"rendered by {os.getpid()}")


def fragment(request: HttpRequest) -> HttpResponse:
    def shelf() -> str:
        log.info("loading fragment")
        return "shelf & co"

    template = "{% load cache %}{% cache 60 shelf %}<b>{{ shelf }}</b>{% endcache %}{{ outside }}"
    return HttpResponse(engines["django"].from_string(template).render({"shelf": shelf, "outside": "!"}, request))


def total(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"total": queries.total()})


def clear(request: HttpRequest) -> HttpResponse:
    cache.clear()
    return HttpResponse("cleared")


def health(request: HttpRequest) -> JsonResponse:
    queries.cache.ping()  # raises what is wrong with Redis
    threads = sorted({thread.name for thread in threading.enumerate()})
    return JsonResponse({"pid": os.getpid(), "threads": threads, **queries.cache.stats()})
