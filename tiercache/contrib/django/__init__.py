"""A backend for Django's CACHES; docs/django_backend.md says how it differs from others."""

from tiercache.contrib.django.backend import TierCache
from tiercache.contrib.django.loaders import own_connections

__all__ = ["TierCache", "own_connections"]
