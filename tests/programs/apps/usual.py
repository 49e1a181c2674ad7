"""The configuration that most of these programs share: a console, and a file beside it."""

from __future__ import annotations

import logging.config

from swap import swapped

CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "short": {"format": "%(levelname)s %(name)s: %(message)s"},
        "long": {
            "format": "%(levelname)s %(name)s %(module)s.%(funcName)s:%(lineno)d %(processName)s %(threadName)s %(message)s"
        },
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "short"},
        "file": {"class": "logging.FileHandler", "filename": "app.log", "formatter": "long", "level": "DEBUG"},
        "problems": {"class": "logging.FileHandler", "filename": "problems.log", "formatter": "short", "level": "WARNING"},
    },
    "root": {"level": "INFO", "handlers": ["console", "file", "problems"]},
    "loggers": {"chatty": {"level": "DEBUG"}, "silent": {"level": "ERROR"}},
}


def configure() -> None:
    """Configure logging as every process of these programs does."""
    logging.config.dictConfig(swapped(CONFIG))
