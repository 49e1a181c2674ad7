"""python-json-logger: messages that are dictionaries, extras, exceptions, values of many types."""

from __future__ import annotations

import datetime
import decimal
import logging
import logging.config
import multiprocessing
import pathlib
import sys
import uuid

from swap import swapped

CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(levelname)s %(name)s %(message)s %(processName)s %(funcName)s",
        },
        "all": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "rename_fields": {"levelname": "severity"},
            "static_fields": {"app": "shop"},
        },
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"},
        "all": {"class": "logging.FileHandler", "formatter": "all", "filename": "all.log"},
    },
    "root": {"level": "INFO", "handlers": ["console", "all"]},
}


def work(number: int) -> None:
    """Log in every way its documentation shows."""
    if multiprocessing.get_start_method() != "fork":
        logging.config.dictConfig(swapped(CONFIG))
    log = logging.getLogger("json")
    log.info("plain %d", number)
    log.info({"event": "paid", "amount": 5, "nested": {"items": [1, 2.5, None, True]}})
    log.info("with extra", extra={"user": "bob", "ids": [1, 2], "deep": {"a": {"b": 1}}})
    log.info(
        "with odd values",
        extra={
            "when": datetime.datetime(2026, 11, 28, 3, 4, 5, tzinfo=datetime.timezone.utc),
            "day": datetime.date(2026, 11, 28),
            "price": decimal.Decimal("1.50"),
            "id": uuid.UUID(int=number),
            "path": str(pathlib.Path("a") / "b"),
            "names": {"rank": 30, "stream": "video", "count": 5, "progress": True},
        },
    )
    log.info(
        "names of ours", extra={"rank": 3, "stream": "video", "progress": 0.5, "hostname": "db-7", "count": 5, "partial": "x"}
    )
    log.warning("%(count)d of %(total)d", {"count": number, "total": 2})
    try:
        int("no number")
    except ValueError:
        log.exception("failed", extra={"job": number})
    log.error("with its stack", stack_info=False, extra={"stack": "no"})


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    logging.config.dictConfig(swapped(CONFIG))
    children = [multiprocessing.Process(target=work, args=(number,), name=f"work-{number}") for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    work_here = logging.getLogger("main")
    work_here.info({"event": "end"})
