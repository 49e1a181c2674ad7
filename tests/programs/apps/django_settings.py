"""A Django site in one module: settings, a view, and what servers import."""

from __future__ import annotations

import logging
import os

from swap import swapped

SECRET_KEY = "none"
DEBUG = os.environ.get("DEBUG") == "yes"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "django_settings"
INSTALLED_APPS = ["shop"]
USE_TZ = True
LOGGING = swapped(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "usual": {"format": "%(levelname)s %(name)s %(message)s"},
            "server": {"()": "django.utils.log.ServerFormatter", "format": "[server] {message}", "style": "{"},
        },
        "filters": {
            "debug": {"()": "django.utils.log.RequireDebugTrue"},
            "no_health": {"()": "shop.filters.NoHealth"},
        },
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "usual", "filters": ["no_health"]},
            "server": {"class": "logging.FileHandler", "filename": "server.log", "formatter": "server"},
            "debug": {"class": "logging.FileHandler", "filename": "debug.log", "filters": ["debug"], "formatter": "usual"},
        },
        "root": {"level": "INFO", "handlers": ["console", "debug"]},
        "loggers": {"django.server": {"level": "INFO", "handlers": ["server"], "propagate": False}},
    }
)


def index(request):
    """Log, and answer."""
    from django.http import HttpResponse

    logging.getLogger("shop").info("asked for %s", request.path)
    if request.path == "/boom":
        raise ValueError("no stock")
    return HttpResponse("ok")


def __getattr__(name: str):
    if name == "urlpatterns":
        from django.urls import re_path

        return [re_path("", index)]
    if name == "application":
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_settings")
        from django.core.wsgi import get_wsgi_application

        return get_wsgi_application()
    raise AttributeError(name)
