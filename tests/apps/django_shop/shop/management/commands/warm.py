"""Load what the front page needs: manage.py warm 1 2"""

from argparse import ArgumentParser

from django.core.cache import cache
from django.core.management.base import BaseCommand

from shop.queries import item


class Command(BaseCommand):
    """Fills the caches, and says what with."""

    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("items", nargs="+", type=int)

    def handle(self, *, items: list[int], **options: object) -> None:
        cache.set("names", [item(pk)["name"] for pk in items])
        self.stdout.write(", ".join(cache.get("names")))
