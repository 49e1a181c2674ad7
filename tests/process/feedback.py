"""Programs whose handling of a record could cause more records, run as ``python -m tests.process.feedback NAME``."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from typing import Any

import multiprocess

import meshlog_handler
from meshlog_handler.testing import PropagateHandler

LOUD = ("", "multiprocess", "multiprocessing", "meshlog", "meshlog_handler", "asyncio")


def be_loud() -> None:
    """Set every logger that a record could involve on its way to DEBUG, and propagate its records to the root."""
    multiprocess.get_logger()
    multiprocessing.get_logger()
    for name in LOUD:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = True


def work(address: str | None = None) -> None:
    """Log one line and print one, while every logger is loud."""
    meshlog_handler.install(address)
    be_loud()
    for package in (multiprocessing, multiprocess):
        queue: Any = package.Queue()
        queue.put("something")
        assert queue.get() == "something"
        queue.close()
        queue.join_thread()
    logging.debug("worker logs")
    print("worker prints")


class Plain(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 has no argument there
    """A console handler."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("%(rank)s %(name)s %(message)s"))


class Chatty(Plain):
    """A console handler that logs each time it shows a record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, and log that."""
        super().emit(record)
        logging.getLogger("chatty").warning("showed a record")


def loud() -> None:
    """Run a client in a process that forwards, too, with loud workers of two start methods."""
    with meshlog_handler.LogClient(Plain()) as client:
        meshlog_handler.install(client.address)
        be_loud()
        logging.debug("client logs")
        sys.stdout.write("client prints\n")  # without buffering, print would write the end of the line separately
        sys.stdout.flush()
        for method in ("fork", "spawn"):
            context: Any = multiprocessing.get_context(method)
            proc = context.Process(target=work, args=(client.address,))
            proc.start()
            proc.join()
        client.flush()
        shown = client.stats().shown
        for _ in range(5):
            client.flush()
        print("shown since:", client.stats().shown - shown, flush=True)


def chatty() -> None:
    """Run a client whose handler logs, in a process whose root logger forwards to this client."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    root.addHandler(meshlog_handler.MeshHandler(handlers=[Chatty()]))
    for number in range(10):
        logging.info("number %d", number)


def optimised() -> None:
    """Run `chatty` with the optimisations of the standard library's HOWTO: no record names its thread or process."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    vars(logging)["logAsyncioTasks"] = False  # there since Python 3.12
    logging.getLogger("chatty").warning("showed a record")  # the schema is known before a handler logs
    chatty()


class Tells(Plain):
    """A console handler that logs to another logger each time it shows a record."""

    def __init__(self, other: str) -> None:
        super().__init__()
        self._other = other

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, and log that."""
        super().emit(record)
        logging.getLogger(self._other).warning("showed a record")


def mutual(window: float | None = None) -> None:
    """Log in a child, and then here, to two handlers that log to each other."""
    for name, other in (("a", "b"), ("b", "a")):
        logger = logging.getLogger(name)
        logger.addHandler(meshlog_handler.MeshHandler(handlers=[Tells(other)], aggregate_window_sec=window))
        logger.propagate = False
    if os.fork() == 0:
        for number in range(3):
            logging.getLogger("a").warning("number %d", number)
        os._exit(0)
    os.wait()
    meshlog_handler.complete()
    logging.getLogger("b").warning("number 3")


def mutual_grouped() -> None:
    """Do as `mutual` with handlers that get all records on the client's thread."""
    mutual(window=0.01)


def relaying() -> None:
    """Pass the records of a worker to the loggers of the client's process, whose root logger forwards to this client."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    root.addHandler(meshlog_handler.MeshHandler(handlers=[PropagateHandler()]))
    root.addHandler(Relayed())
    logging.info("client logs")
    proc: Any = multiprocessing.get_context("spawn").Process(target=work)
    proc.start()
    proc.join()
    logging.info("client logs again")


class Relayed(logging.StreamHandler):  # type: ignore[type-arg]  # as above
    """A console handler of the client's process."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
