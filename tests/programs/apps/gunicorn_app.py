"""A WSGI application, and with it an ASGI one, that logs and can die."""

from __future__ import annotations

import logging
import os
import signal

log = logging.getLogger("shop")
access = logging.getLogger("audit")


def app(environ, start_response):
    """Answer with the pid of the worker."""
    path = environ["PATH_INFO"]
    log.info("asked for %s", path)
    access.info("audited %s", path)
    if path == "/boom":
        raise ValueError("no stock")
    if path == "/kill":
        log.warning("kills itself")
        os.kill(os.getpid(), signal.SIGKILL)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%08d" % os.getpid()]


async def asgi(scope, receive, send):
    """The same for uvicorn."""
    if scope["type"] != "http":
        raise NotImplementedError
    log.info("asked for %s", scope["path"])
    access.info("audited %s", scope["path"])
    if scope["path"] == "/boom":
        raise ValueError("no stock")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"%08d" % os.getpid()})
