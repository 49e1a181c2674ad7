"""An application with a `dictConfig` configuration and a process pool: it needs one more handler and no other change."""

from __future__ import annotations

import logging
import logging.config
from concurrent.futures import ProcessPoolExecutor

CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"brief": {"format": "%(levelname)s [rank %(rank)s, pid %(process)d] %(name)s: %(message)s"}},
    "handlers": {
        # All processes apply this configuration. The first becomes the client; the others find it and forward to it.
        "mesh": {"class": "meshlog_handler.MeshHandler", "handlers": ["console"]},
        "console": {"class": "logging.StreamHandler", "formatter": "brief", "stream": "ext://sys.stdout"},
    },
    "root": {"level": "INFO", "handlers": ["mesh"]},
}

log = logging.getLogger("orders")


def handle(order: int) -> int:
    """Handle an order in a worker process."""
    log.info("order %d handled", order)
    return order


def main() -> None:
    """Configure logging, then log in this process and in two workers."""
    logging.config.dictConfig(CONFIG)
    log.info("the shop is open")
    with ProcessPoolExecutor(2, initializer=logging.config.dictConfig, initargs=(CONFIG,)) as pool:
        log.info("handled %d", sum(1 for _ in pool.map(handle, range(6))))


if __name__ == "__main__":
    main()
