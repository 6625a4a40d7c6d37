"""The shop's pages."""

import os

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.views.decorators.cache import cache_page

from shop.models import Item
from shop.queries import aitem, count, item, slow, total


class Refused(Exception):
    """Ends a transaction."""


def show(request: HttpRequest, pk: int) -> JsonResponse:
    try:
        return JsonResponse(item(pk))
    except Item.DoesNotExist:
        raise Http404 from None


async def ashow(request: HttpRequest, pk: int) -> JsonResponse:
    return JsonResponse(await aitem(pk))


def price(request: HttpRequest, pk: int, price: int) -> HttpResponse:
    """Change a price. `?refuse`: and roll back. What a reader is told inside the transaction is in the answer."""
    inside = None
    try:
        with transaction.atomic():
            found = Item.objects.get(pk=pk)
            found.price = price
            found.save()
            inside = item.__wrapped__(pk)["price"]
            if "refuse" in request.GET:
                raise Refused
    except Refused:
        pass
    return JsonResponse({"inside": inside})


def prices(request: HttpRequest) -> JsonResponse:
    def load() -> list[Item]:
        slow("prices")
        return list(Item.objects.order_by("pk"))

    return JsonResponse({each.name: each.price for each in cache.get_or_set("prices", load)})


async def aprices(request: HttpRequest) -> JsonResponse:
    def load() -> list[Item]:
        slow("aprices")
        return list(Item.objects.order_by("pk"))

    return JsonResponse({each.name: each.price for each in await cache.aget_or_set("aprices", load)})


def basket(request: HttpRequest, pk: int) -> JsonResponse:
    """Put an item into the session's basket, which is changed in place."""
    request.session.setdefault("basket", []).append(pk)
    if "forget" not in request.GET:
        request.session.modified = True
    return JsonResponse({"basket": request.session["basket"]})


@cache_page(60)
def page(request: HttpRequest) -> HttpResponse:
    count("page")
    return HttpResponse(f"rendered by {os.getpid()}")


def fragment(request: HttpRequest) -> HttpResponse:
    template = engines["django"].from_string(
        "{% load cache %}{% cache 60 shelf %}<b>{{ shelf }}</b>{% endcache %}{{ outside }}"
    )

    def shelf() -> str:
        count("fragment")
        return "shelf & co"

    return HttpResponse(template.render({"shelf": shelf, "outside": "!"}, request))


def sum_of_prices(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"total": total()})


def clear(request: HttpRequest) -> HttpResponse:
    cache.clear()
    return HttpResponse("cleared")


def databases(request: HttpRequest) -> JsonResponse:
    """How many connections to the database this process has."""
    folder, name = "/proc/self/fd", os.path.realpath(str(settings.DATABASES["default"]["NAME"]))
    links = []
    for fd in os.listdir(folder):
        try:
            links.append(os.readlink(f"{folder}/{fd}"))
        except FileNotFoundError:
            pass  # the folder's own
    return JsonResponse({"pid": os.getpid(), "open": links.count(name)})
