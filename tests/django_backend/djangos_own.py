"""Django's own tests of caches, pages, fragments and sessions, on TierCache: python djangos_own.py DJANGOS_SOURCES

Where they name the locmem backend they get a TierCache. What is left out stands here, with its reason.
"""

import sys
import tempfile
import unittest
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(sys.argv[1]) / "tests"))

import django
from django.conf import settings
from redis_server import RedisServer

SUITES = {
    "cache.tests": [
        "CacheHEADTest", "CacheHandlerTest", "CacheI18nTest", "CacheMiddlewareTest", "CacheUtils",
        "DefaultNonExpiringCacheKeyTests", "PrefixedCacheI18nTest", "PrefixedCacheUtils", "TestWithTemplateResponse",
    ],
    "sessions_tests.tests": ["CacheDBSessionTests", "CacheSessionTests"],
    "template_tests.syntax_tests.test_cache": ["CacheTagTests", "CacheTests"],
}  # fmt: skip
CULLING = "what is more than MAX_ENTRIES leaves tier 1 and stays in Redis"
A_YEAR = "timeout=None is a year"
INTERNALS = "it looks into a dict that locmem has"
LEFT_OUT = {
    "test_cull": CULLING,
    "test_cull_delete_when_store_empty": CULLING,
    "test_zero_cull": CULLING,
    "test_caches_set_with_timeout_as_none_has_correct_default_timeout": A_YEAR,
    "test_caches_set_with_timeout_as_none_set_non_expiring_key": INTERNALS,
    "test_caches_with_unset_timeout_set_expiring_key": INTERNALS,
}
server = RedisServer()


def set_up(folder: str) -> None:
    """Django's settings for its tests; from here on locmem is TierCache."""
    apps = ["auth", "contenttypes", "sessions", "sites", "messages", "staticfiles"]
    settings.configure(
        SECRET_KEY="of Django's tests",
        SITE_ID=1,
        USE_TZ=False,
        DATABASES={name: {"ENGINE": "django.db.backends.sqlite3"} for name in ("default", "other")},
        INSTALLED_APPS=[*(f"django.contrib.{app}" for app in apps), "cache", "sessions_tests", "template_tests"],
        ROOT_URLCONF="urls",
        STATIC_URL="static/",
        LANGUAGE_CODE="en",
        SESSION_FILE_PATH=folder,
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    )
    django.setup()

    from django.core.cache.backends import locmem

    from tiercache.contrib.django import TierCache

    class Patient(TierCache):
        """A TierCache for which a name is enough, as for locmem."""

        def __init__(self, name: str, params: dict[str, Any]) -> None:
            options = {"namespace": f"django-{name}", "connect_timeout": 5, "call_timeout": 5, "call_budget": 20}
            super().__init__(server.tcp_url, {**params, "OPTIONS": {**options, **params.get("OPTIONS", {})}})

    locmem.LocMemCache = Patient


def backend_tests() -> type:
    """The tests that Django has for every backend."""
    from cache.tests import BaseCacheTests, caches_setting_for_tests
    from django.test import TestCase, override_settings

    @override_settings(CACHES=caches_setting_for_tests(BACKEND="django.core.cache.backends.locmem.LocMemCache"))
    class TierCacheTests(BaseCacheTests, TestCase):
        pass

    return TierCacheTests


def main() -> int:
    """How many failed."""
    from django.test.runner import DiscoverRunner

    classes = [backend_tests()]
    classes += [getattr(import_module(module), name) for module, names in SUITES.items() for name in names]
    for each in classes:
        for name in LEFT_OUT.keys() & set(dir(each)):
            setattr(each, name, unittest.skip(LEFT_OUT[name])(getattr(each, name)))
    runner = DiscoverRunner(verbosity=1)
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    runner.build_suite = lambda *unused, **more: unittest.TestSuite(map(load, classes))
    return runner.run_tests([])


with tempfile.TemporaryDirectory() as folder, server:
    set_up(folder)
    sys.exit(main())
