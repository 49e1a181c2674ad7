"""uvicorn with its usual configuration, two handlers, and one for the application: ``uvicorn_main.py [workers=N] [reload]``."""

from __future__ import annotations

import copy
import os
import sys

import uvicorn
from swap import swapped
from uvicorn.config import LOGGING_CONFIG


def config() -> dict:
    """Return uvicorn's own configuration with a root logger."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["app"] = {"class": "logging.FileHandler", "filename": "app.log", "formatter": "app"}
    config["formatters"]["app"] = {"format": "%(levelname)s %(name)s %(message)s"}
    config["root"] = {"level": "INFO", "handlers": ["app"]}
    return swapped(config)


if __name__ == "__main__":
    options: dict = {}
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        options[name] = int(value) if value else True
    if "reload" in options:
        options["reload_dirs"] = ["."]
    app = "watched:app" if "reload" in options else "gunicorn_app:asgi"
    uvicorn.run(app, port=int(os.environ["PORT"]), log_config=config(), lifespan="off", app_dir=".", **options)
