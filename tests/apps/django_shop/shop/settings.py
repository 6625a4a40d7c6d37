"""Settings of the shop; SHOP_REDIS and SHOP_DB name its servers."""

import os

SECRET_KEY = "of the shop's tests alone"
DEBUG = os.environ.get("SHOP_DEBUG") == "1"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["django.contrib.sessions", "shop"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
REDIS_URL = os.environ["SHOP_REDIS"]
CACHES = {
    "default": {
        "BACKEND": "tiercache.contrib.django.TierCache",
        "LOCATION": REDIS_URL,
        # The machine of the tests may be busy.
        "OPTIONS": {"namespace": "shop", "connect_timeout": 5, "call_timeout": 5, "call_budget": 20},
    }
}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["SHOP_DB"],
        "CONN_MAX_AGE": None,  # so that nothing but the shop closes a connection
        "OPTIONS": {"timeout": 60},
    }
}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"shop": {"handlers": ["console"], "level": "INFO"}},
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
