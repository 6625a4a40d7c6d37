"""Load what the front page needs."""

from django.core.cache import cache
from django.core.management.base import BaseCommand

from shop.models import Item
from shop.queries import item


class Command(BaseCommand):
    """Fills the cache, and says what with."""

    help = __doc__

    def handle(self, *args: object, **options: object) -> None:
        names = [item(pk)["name"] for pk in Item.objects.order_by("pk").values_list("pk", flat=True)]
        cache.set("names", names)
        self.stdout.write(", ".join(cache.get("names")))
