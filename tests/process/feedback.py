"""Programs that could feed themselves, run as ``python -m tests.process.feedback NAME``."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from typing import Any

import multiprocess

import meshlog_handler
from meshlog_handler.testing import PropagateHandler

LOUD = ("", "multiprocess", "multiprocessing", "meshlog", "meshlog_handler", "asyncio")


def be_loud() -> None:
    """Let every logger that could have to do with the way of a record log all it has, to the root's handlers."""
    multiprocess.get_logger()
    multiprocessing.get_logger()
    for name in LOUD:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = True


def work(address: str | None = None) -> None:
    """Log one line and print one, with all that is loud."""
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
    """A console."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("%(rank)s %(name)s %(message)s"))


class Chatty(Plain):
    """A console that logs, and prints, each time it shows something."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show, and say so."""
        super().emit(record)
        logging.getLogger("chatty").warning("showed a record")


def loud() -> None:
    """A client whose own process forwards, too, and a loud worker of every start method."""
    with meshlog_handler.LogClient(Plain()) as client:
        meshlog_handler.install(client.address)
        be_loud()
        logging.debug("client logs")
        sys.stdout.write("client prints\n")  # where nothing is buffered, print writes the end of the line apart
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
    """A handler of the client logs, in a process whose root logger forwards to this client."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    root.addHandler(meshlog_handler.MeshHandler(handlers=[Chatty()]))
    for number in range(10):
        logging.info("number %d", number)


def optimised() -> None:
    """The same, with what the standard library's HOWTO advises to be faster: no record names its thread or process."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    vars(logging)["logAsyncioTasks"] = False  # there since Python 3.12
    logging.getLogger("chatty").warning("showed a record")  # the shape is known before a handler logs it
    chatty()


def relaying() -> None:
    """What a worker logs is handed to the loggers of the client's process, of which the root forwards to this client."""
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
    """A console of the client's process."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
