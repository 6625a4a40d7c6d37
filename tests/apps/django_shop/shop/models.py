"""What the shop sells."""

from django.db import models


class Item(models.Model):
    """One article; the price in cents."""

    name = models.CharField(max_length=100)
    price = models.IntegerField()
