"""From the settings of an alias to its `Cache`: one for all backends with the same settings."""

import threading
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.crypto import salted_hmac
from django.utils.module_loading import import_string

from tiercache.cache import Cache
from tiercache.contrib.django.loaders import own_connections
from tiercache.contrib.pickling import pickling_cache
from tiercache.errors import TierCacheError
from tiercache.policy import FIELDS, Policy

POLICY_OPTIONS = FIELDS - {"ttl", "negative_ttl", "negative_errors", "copy"}
CACHE_OPTIONS = {
    "namespace", "max_bytes", "max_value_bytes", "push_bytes", "compress", "compress_above", "connect_timeout",
    "call_timeout", "call_budget", "refresh_concurrency", "around_load", "sign_with",
}  # fmt: skip
LARGEST = 2**29 - 2**12  # bytes: what Redis takes, less our header; signatures make the lower bound of Cache needless
DJANGO_OPTIONS = {"MAX_ENTRIES", "CULL_FREQUENCY", "IGNORE_EXCEPTIONS"}


_living: dict[str, Cache] = {}
_lock = threading.Lock()


def shared(location: Any, options: dict[str, Any]) -> Cache:
    """The process's cache for these settings; ImproperlyConfigured says what is wrong with them."""
    if "sign_with" not in options:
        options["sign_with"] = [_derived(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]
    same = repr((location, sorted(options.items())))
    with _lock:
        if same not in _living:
            _living[same] = _new(location, options)
        return _living[same]


def _derived(secret: str | bytes) -> bytes:
    return salted_hmac("tiercache.contrib.django", "sign_with", secret=secret, algorithm="sha256").digest()  # type: ignore[no-any-return]


def _new(location: Any, options: dict[str, Any]) -> Cache:
    urls = location if isinstance(location, (list, tuple)) else [location]
    if len(urls) != 1 or not (urls[0] and isinstance(urls[0], str)):
        raise ImproperlyConfigured("CACHES: LOCATION must be one Redis URL, such as redis://localhost:6379/0")
    if unknown := sorted(options.keys() - POLICY_OPTIONS - CACHE_OPTIONS - DJANGO_OPTIONS):
        raise ImproperlyConfigured(
            f"CACHES: {unknown[0]!r} is no option of TierCache; the options are "
            f"{', '.join(sorted(POLICY_OPTIONS | CACHE_OPTIONS | DJANGO_OPTIONS))}"
        )
    rules = {
        "refresh": "caller",
        "stale_if_error": 0,
        **{name: options[name] for name in POLICY_OPTIONS & options.keys()},
    }
    given = {
        "namespace": "django",
        "max_value_bytes": LARGEST,
        **{name: options[name] for name in CACHE_OPTIONS & options.keys()},
    }
    try:
        if isinstance(around := given.setdefault("around_load", own_connections), str):
            given["around_load"] = import_string(around)
        return pickling_cache(urls[0], max_entries=int(options["MAX_ENTRIES"]), policy=Policy(**rules), **given)
    except (TierCacheError, TypeError, ValueError, ImportError) as error:
        raise ImproperlyConfigured(f"CACHES: {error}") from None


def _forget(*, setting: str, **_: Any) -> None:
    # Tests override CACHES; Django's own handler makes new backends then.
    if setting == "CACHES":
        with _lock:
            gone = list(_living.values())
            _living.clear()
        for cache in gone:
            cache.close()


setting_changed.connect(_forget, dispatch_uid=__name__)
