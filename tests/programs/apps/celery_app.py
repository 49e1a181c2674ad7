"""Celery tasks. The broker is a directory; logging is configured by the application, as Celery's documentation shows."""

from __future__ import annotations

import logging.config
import os
import signal

from celery import Celery
from celery.signals import setup_logging
from celery.utils.log import get_task_logger
from swap import swapped

for name in ("queue", "processed"):
    os.makedirs(name, exist_ok=True)
app = Celery("celery_app", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": "queue",
        "data_folder_out": "queue",
        "processed_folder": "processed",
        "control_folder": "control",
    },
    task_ignore_result=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
log = get_task_logger(__name__)


@setup_logging.connect
def configure(**_) -> None:
    """Configure logging: Celery leaves it alone then."""
    logging.config.dictConfig(
        swapped(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {
                    "usual": {"format": "%(levelname)s %(name)s %(message)s"},
                    "task": {
                        "()": "celery.app.log.TaskFormatter",
                        "fmt": "%(levelname)s %(name)s %(task_name)s %(message)s",
                    },
                },
                "handlers": {
                    "console": {"class": "logging.StreamHandler", "formatter": "usual", "stream": "ext://sys.stdout"},
                    "tasks": {"class": "logging.FileHandler", "filename": "tasks.log", "formatter": "task"},
                },
                "root": {"level": "INFO", "handlers": ["console"]},
                "loggers": {"celery.task": {"level": "DEBUG", "handlers": ["tasks"], "propagate": False}},
            },
        )
    )


@app.task
def add(x: int, y: int) -> int:
    """Log at two levels."""
    log.debug("adding %d and %d", x, y)
    log.info("sum is %d", x + y)
    return x + y


@app.task
def fail() -> None:
    """Raise."""
    raise ValueError("no stock")


@app.task
def die() -> None:
    """End the process."""
    log.warning("kills itself")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    for number in range(6):
        add.delay(number, 1)
    fail.delay()
    if "KILL" in os.environ:
        die.delay()
