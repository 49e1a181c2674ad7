"""A configuration of gunicorn in which a worker says that it is ready: before that, it may miss a signal to end."""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    """Say so: the worker has its signal handlers and its application."""
    worker.log.info("Worker is ready")
