"""Flask as its documentation has it: logging is configured before the application is made; a formatter knows the request."""

from __future__ import annotations

import contextvars
import logging
import logging.config
import os

from flask import Flask, has_request_context, request
from swap import swapped

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


class RequestId(logging.Filter):
    """Adds the id of the request, as asgi-correlation-id and django-guid do."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Read the context variable."""
        record.request_id = request_id.get()
        return True


class RequestFormatter(logging.Formatter):
    """The one of Flask's documentation: it asks for the request when it formats."""

    def format(self, record: logging.LogRecord) -> str:
        """Add the path."""
        record.url = request.path if has_request_context() else None
        return super().format(record)


logging.config.dictConfig(
    swapped(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"id": {"()": RequestId}},
            "formatters": {
                "id": {"format": "%(levelname)s %(request_id)s %(message)s"},
                "request": {"()": RequestFormatter, "format": "%(levelname)s in %(module)s for %(url)s: %(message)s"},
            },
            "handlers": {
                "wsgi": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://flask.logging.wsgi_errors_stream",
                    "formatter": "id",
                    "filters": ["id"],
                },
                "requests": {"class": "logging.FileHandler", "filename": "requests.log", "formatter": "request"},
            },
            "root": {"level": "INFO", "handlers": ["wsgi"]},
            "loggers": {"flask_app": {"handlers": ["requests"]}},
        }
    )
)
app = Flask(__name__)


@app.get("/<path:rest>")
def index(rest: str) -> str:
    """Log by the application's logger, and by another."""
    request_id.set(f"r-{rest}")
    app.logger.info("asked for %s", rest)
    logging.getLogger("shop").warning("low on %s", rest)
    if rest == "boom":
        raise ValueError("no stock")
    return "ok"


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=os.environ.get("THREADED") == "yes")
