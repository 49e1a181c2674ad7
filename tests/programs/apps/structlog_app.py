"""structlog as its documentation has it for production: events are dictionaries, which a formatter of `logging` renders."""

from __future__ import annotations

import logging
import logging.config
import multiprocessing
import sys

import structlog
from swap import swapped

SHARED = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.CallsiteParameterAdder(
        {structlog.processors.CallsiteParameter.FUNC_NAME, structlog.processors.CallsiteParameter.PROCESS_NAME}
    ),
]
FORMATTER = {
    "()": structlog.stdlib.ProcessorFormatter,
    "foreign_pre_chain": [*SHARED, structlog.stdlib.ExtraAdder()],
}
CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            **FORMATTER,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        },
        "plain": {
            **FORMATTER,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            ],
        },
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"},
        "json": {"class": "logging.FileHandler", "formatter": "json", "filename": "json.log"},
    },
    "root": {"level": "INFO", "handlers": ["console", "json"]},
}


def configure() -> None:
    """Configure both."""
    logging.config.dictConfig(swapped(CONFIG))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def work(number: int) -> None:
    """Log events of structlog, and records of `logging` beside them."""
    if multiprocessing.get_start_method() != "fork":
        configure()
    structlog.contextvars.bind_contextvars(request=f"r-{number}")
    log = structlog.get_logger("train").bind(user="bob", tags=["a", "b"])
    log.info("trained", step=number, loss=0.25, shape=(2, 3), nested={"lr": 0.1, "layers": [1, 2]})
    log.debug("not shown")
    log.warning("percent %s of %d", "50%", 100)
    logging.getLogger("std").warning("plain %d", number, extra={"color": "red"})
    try:
        int("no number")
    except ValueError:
        log.exception("bad", step=number)
        logging.getLogger("std").exception("bad, too")


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    configure()
    structlog.get_logger("main").info("begin", jobs=2)
    children = [multiprocessing.Process(target=work, args=(number,), name=f"work-{number}") for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    structlog.get_logger("main").info("end")
