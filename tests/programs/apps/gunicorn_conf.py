"""The configuration of gunicorn: its errors, its accesses and the application's records, each in a place of its own."""

from __future__ import annotations

import hashlib  # noqa: F401  # gunicorn imports it in the workers, and another user may not read this Python
import os
import pwd

from gunicorn_ready import post_worker_init  # noqa: F401  # gunicorn calls it
from swap import swapped

bind = f"127.0.0.1:{os.environ['PORT']}"
workers = int(os.environ.get("WORKERS", "2"))
worker_class = os.environ.get("WORKER_CLASS", "sync")
threads = 2 if worker_class == "gthread" else 1
preload_app = os.environ.get("PRELOAD") == "yes"
graceful_timeout = 5
control_socket_disable = True
pidfile = "pid"
if "RUN_AS" in os.environ:
    user, group = os.environ["RUN_AS"], pwd.getpwnam(os.environ["RUN_AS"]).pw_gid
logconfig_dict = swapped(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "usual": {"format": "%(levelname)s %(name)s: %(message)s"},
            "access": {"format": "%(message)s by %(name)s"},
        },
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "usual", "stream": "ext://sys.stderr"},
            "access": {"class": "logging.FileHandler", "formatter": "access", "filename": "access.log"},
            "errors": {"class": "logging.FileHandler", "formatter": "usual", "filename": "error.log"},
        },
        "root": {"level": "INFO", "handlers": ["console"]},
        "loggers": {
            "gunicorn.error": {"level": "INFO", "handlers": ["errors"], "propagate": False},
            "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
        },
    }
    if os.environ.get("TARGETS") != "one"
    else {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"usual": {"format": "%(levelname)s %(name)s: %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "usual", "stream": "ext://sys.stderr"}},
        "root": {"level": "INFO", "handlers": ["console"]},
        "loggers": {
            "gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "INFO", "handlers": [], "propagate": True},
        },
    }
)
