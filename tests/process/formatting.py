"""Formatters as programs use them, and a worker that logs in every way that matters to them."""

from __future__ import annotations

import collections
import datetime
import decimal
import io
import json
import logging
import multiprocessing
import uuid
from collections.abc import Callable
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Any

import meshlog_handler


class Level(IntEnum):
    HIGH = 3


class OneLine(logging.Formatter):
    """Formats an exception as one line, as in the logging cookbook."""

    def formatException(self, ei: Any) -> str:
        return repr(super().formatException(ei))


class Everything(logging.Formatter):
    """Writes every attribute that neither the standard library nor the client has set, as JSON formatters do."""

    known = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    ours = ("rank", "local_rank", "hostname", "coords", "stream")

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in self.known and name not in self.ours}
        fields.update(message=record.getMessage(), process=record.processName, module=record.module)
        fields["data"] = record.msg if isinstance(record.msg, dict) else None
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, sort_keys=True)


def structlog_formatter() -> logging.Formatter:
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder(["user", "job"])],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=True, default=str),
        ],
    )


FORMATTERS: dict[str, Callable[[], logging.Formatter]] = {
    "standard": lambda: logging.Formatter("%(asctime)s %(processName)s %(relativeCreated)f %(module)s %(message)s"),
    "one line": OneLine,
    "everything": Everything,
    "structlog": structlog_formatter,
}


def inner() -> None:
    {"a": 1}["b"]


def outer() -> None:
    try:
        inner()
    except KeyError as failure:
        raise ValueError("no\ndata") from failure


def log_everything(address: str, formatter: str, answer: Any) -> None:
    """Log to a client and to a local handler; send the text that the local handler has written."""
    import structlog

    logging.getLogger().handlers.clear()  # a forked process has inherited the handlers of pytest
    meshlog_handler.install(address, level=logging.INFO, capture=False)
    out = io.StringIO()
    here = logging.StreamHandler(out)
    here.setFormatter(FORMATTERS[formatter]())
    # After the handler that forwards, which thus forwards records that are not formatted yet.
    logging.getLogger().addHandler(here)
    log = logging.getLogger("app")
    user = {
        "id": 5,
        "since": datetime.date(2024, 5, 5),
        "cost": decimal.Decimal("1.5"),
        "home": PurePosixPath("/a"),
        "level": Level.HIGH,
    }
    user |= {"ordered": collections.OrderedDict(a=1), "count": collections.Counter("aab"), "key": uuid.UUID(int=5), "set": {1}}
    for name in ("job-a", "job-b"):
        multiprocessing.current_process().name = name
        log.info("step %d of %s", 5, "ten")
        log.info("a constant")
        log.info("for %s", "a user", extra={"user": user, "progress": 0.5, "raw_text": "raw", "job": name})
    for msg in ({"event": "saved", "rows": [1, None], "when": datetime.date(2024, 5, 5)}, ["a", 1], 5, None):
        log.info(msg)
    try:
        outer()
    except ValueError as failure:
        log.exception("failed at %d", 5)
        log.exception({"event": "failed"})
        structlog.configure(
            processors=[structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        events = structlog.get_logger("events").bind(user="ann")
        events.info("trained", step=5, when=datetime.date(2024, 5, 5))
        if formatter == "structlog":  # other formatters do not understand these events
            events.exception("failed", step=5)
            events.error("failed", exc_info=failure)
    log.error("not in an exception", exc_info=True)
    log.info("from here", stack_info=True)
    answer.send(out.getvalue())
