"""The subjects: ways to bring the records of many processes to one handler, ours and others.

Each peer is used as its own documentation shows. Peers that are not installed are named in the table, not left out.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import socket
import socketserver
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from .crew import DEADLINE, FORKSERVER, context
from .handlers import LOGGER, Counter, Nop, bare_logger

TEMPLATE: Final = "step %d loss=%.3f"
Info = Callable[..., Any]


class Listening(NamedTuple):
    """The value of `Peer.listen`: what a process needs to join, and a function that waits until all records have arrived."""

    ticket: Any
    settle: Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """Processes that log into a handler that does nothing: the upper limit for every peer.

    Attributes
    ----------
    name, method, template : str
        The name, the start method of the processes, and the message in the peer's own format.
    settles_late : bool
        All calls must have been made before `Listening.settle` is called.
    """

    name: str = "nothing handler (the limit)"
    method: str = FORKSERVER
    template: str = TEMPLATE
    settles_late: bool = False

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """In the process that shows: pass to `counter` what other processes log."""
        yield Listening(None, lambda: None)

    def join(self, ticket: Any) -> Info:
        """In a process that logs: return the function to call."""
        return bare_logger(Nop()).info


@dataclass(frozen=True)
class Mesh(Peer):
    """Ours. With a window, similar records become one, and all have arrived when a flush reports it."""

    name: str = "MeshHandler"
    window: float | None = None

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Start a client."""
        from meshlog_handler import LogClient

        with LogClient(counter, aggregate_window_sec=self.window) as client:

            def flush() -> None:
                client.flush(DEADLINE)
                counter.wait()

            yield Listening(client.address, counter.wait if self.window is None else flush)

    def join(self, ticket: Any) -> Info:
        """Install the handler."""
        from meshlog_handler import MeshHandler, install

        logging.getLogger().setLevel(logging.INFO)
        install(ticket, capture=False)
        return bare_logger(MeshHandler(address=ticket)).info


@dataclass(frozen=True)
class Recipe(Peer):
    """The standard library's cookbook: a `QueueHandler`, one `multiprocessing.Queue` for all, a `QueueListener`."""

    name: str = "QueueHandler, Queue, QueueListener"

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Start a listener."""
        queue = context(self.method).Queue()
        listener = logging.handlers.QueueListener(queue, counter, respect_handler_level=True)
        listener.start()
        try:
            yield Listening(queue, counter.wait)
        finally:
            listener.stop()
            queue.close()

    def join(self, ticket: Any) -> Info:
        """Log into the queue."""
        return bare_logger(logging.handlers.QueueHandler(ticket)).info


@dataclass(frozen=True)
class Socket(Peer):
    """The standard library's other cookbook recipe: a `SocketHandler`, and a thread for each connection that unpickles."""

    name: str = "SocketHandler"

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Start a server."""
        with _Server(("localhost", 0), partial(_Receiver, counter)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield Listening(server.server_address, counter.wait)
            server.shutdown()

    def join(self, ticket: Any) -> Info:
        """Log into the connection."""
        return bare_logger(logging.handlers.SocketHandler(*ticket)).info


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128  # with 5, a handler that finds no room loses its records, if many processes start at once


class _Receiver(socketserver.StreamRequestHandler):
    def __init__(self, counter: Counter, *args: Any) -> None:
        self._counter = counter
        super().__init__(*args)

    def handle(self) -> None:
        """Handle the records of one connection."""
        while len(head := self.rfile.read(4)) == 4:
            fields = pickle.loads(self.rfile.read(struct.unpack(">L", head)[0]))
            self._counter.handle(logging.makeLogRecord(fields))


@dataclass(frozen=True)
class Syslog(Peer):
    """`SysLogHandler` with a local socket, as of a syslog daemon: formatted text, which a full socket delays."""

    name: str = "SysLogHandler"

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Start a thread in place of the daemon."""
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            path = os.path.join(directory, "log")
            listening.bind(path)
            threading.Thread(target=self._receive, args=(listening, counter), daemon=True).start()
            yield Listening(path, counter.wait)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", path)

    @staticmethod
    def _receive(listening: socket.socket, counter: Counter) -> None:
        while data := listening.recv(65536):
            counter.take_text(data.rstrip(b"\0").decode())

    def join(self, ticket: Any) -> Info:
        """Log into the socket."""
        return bare_logger(logging.handlers.SysLogHandler(ticket)).info


@dataclass(frozen=True)
class Loguru(Peer):
    """loguru: a separate logger that renders in the process that logs and sends text, here the bare message."""

    name: str = "loguru, enqueue=True"
    template: str = "step {} loss={:.3f}"

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Add a sink."""
        logger = importlib.import_module("loguru").logger
        logger.remove()
        logger.add(counter.take_text, enqueue=True, context=self.method, level="INFO", format="{message}")
        try:
            yield Listening(logger, counter.wait)
        finally:
            logger.remove()

    def join(self, ticket: Any) -> Info:
        """Use the logger that was passed along."""
        info: Info = ticket.info
        return info


@dataclass(frozen=True)
class Picologging(Peer):
    """picologging: the interface of `logging` in C++, here with the recipe's queue. The listener renders the text."""

    name: str = "picologging, QueueHandler"

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Start a listener."""
        queue = context(self.method).Queue()
        handlers: Any = importlib.import_module("picologging.handlers")
        listener = handlers.QueueListener(queue, SimpleNamespace(handle=lambda record: counter.take_text(record.getMessage())))
        listener.start()
        try:
            yield Listening(queue, counter.wait)
        finally:
            listener.stop()
            queue.close()

    def join(self, ticket: Any) -> Info:
        """Log into the queue."""
        logger: Any = importlib.import_module("picologging").getLogger(LOGGER)
        logger.setLevel(logging.INFO)
        logger.addHandler(importlib.import_module("picologging.handlers").QueueHandler(ticket))
        info: Info = logger.info
        return info


@dataclass(frozen=True)
class MultiprocessingLogging(Peer):
    """multiprocessing-logging: renders in the process that logs; only forked processes can use the queue, by inheriting it."""

    name: str = "multiprocessing-logging"
    method: str = "fork"

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Wrap the handler, so that processes forked from here inherit it."""
        package: Any = importlib.import_module("multiprocessing_logging")
        logger = bare_logger(counter)
        package.install_mp_handler(logger)
        (handler,) = logger.handlers
        try:
            yield Listening(None, counter.wait)
        finally:
            handler.close()
            logger.handlers.clear()

    def join(self, ticket: Any) -> Info:
        """Use the inherited logger."""
        return logging.getLogger(LOGGER).info


LIMIT: Final = Peer(settles_late=True)
MESH: Final = Mesh()
RECIPE: Final = Recipe()
_OPTIONAL: Final[dict[Peer, str]] = {
    Loguru(): "loguru",
    MultiprocessingLogging(): "multiprocessing-logging",
    Picologging(): "picologging",
}


def others() -> tuple[list[Peer], dict[str, str]]:
    """Return the peers beyond the standard library that can run here, and the reasons, by name, why the others cannot."""
    there: list[Peer] = [Socket(), Syslog()]
    absent: dict[str, str] = {}
    for peer, package in _OPTIONAL.items():
        if peer.method == "fork" and multiprocessing.get_start_method() != "fork":
            absent[peer.name] = "missing: works only where processes are forked by default"
        elif version(package) is None:
            absent[peer.name] = f"missing: {package} is not installed (pip install -e '.[bench]')"
        else:
            there.append(peer)
    return there, absent


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
