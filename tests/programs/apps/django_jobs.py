"""A Django site whose workers each apply LOGGING, and share one rotating file by a job."""

from __future__ import annotations

import os

from django_settings import *  # noqa: F403  # as sites extend their settings
from django_settings import __getattr__ as inherited

ROOT_URLCONF = "django_jobs"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"usual": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "filename": "site.log",
            "maxBytes": 1000,
            "backupCount": 100,
            "formatter": "usual",
        },
        "mesh": {"class": "meshlog_handler.MeshHandler", "handlers": ["file"], "job": "site"},
    },
    "root": {"level": "INFO", "handlers": ["mesh"]},
}


def __getattr__(name: str):
    if name == "application":
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_jobs")
    return inherited(name)
