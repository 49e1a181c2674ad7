"""Programs whose workers have handlers beside the one that `install` puts on the root logger, in either order."""

from __future__ import annotations

import copy
import logging
import logging.config
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

from meshlog_handler import ConsoleHandler, LogClient, MeshHandler, install

ROOT: Final = logging.getLogger()
APP: Final = logging.getLogger("app")
NESTED: Final = "nested"


class Talkative(ConsoleHandler):
    """A console that logs while it writes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        if record.msg != NESTED:
            APP.info(NESTED)
        super().emit(record)


class OwnEmit(ConsoleHandler):
    """A console with an `emit` of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        super().emit(record)


def _removed() -> None:
    handler = MeshHandler()
    ROOT.addHandler(handler)
    ROOT.removeHandler(handler)


def _console_of_program() -> None:
    ROOT.addHandler(logging.StreamHandler())
    APP.addHandler(MeshHandler())


def _rejecting() -> None:
    ROOT.addHandler(logging.StreamHandler())
    handler = MeshHandler()
    handler.addFilter(lambda record: False)
    APP.addHandler(handler)


def _forgotten() -> None:
    APP.addHandler(MeshHandler())
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {"level": "INFO"}})


def _cut_off() -> None:
    APP.addHandler(ConsoleHandler())
    APP.propagate = False


SECOND: Final[dict[str, Callable[[str], object]]] = {
    "mesh": lambda address: APP.addHandler(MeshHandler()),
    "mesh-of-errors": lambda address: APP.addHandler(MeshHandler(logging.ERROR)),
    "mesh-of-address": lambda address: APP.addHandler(MeshHandler(address=address)),
    "mesh-on-root": lambda address: ROOT.addHandler(MeshHandler()),
    "mesh-on-root-removed": lambda address: _removed(),
    "mesh-copied": lambda address: APP.addHandler(copy.copy(MeshHandler())),
    "mesh-and-stream-on-root": lambda address: _console_of_program(),
    "mesh-that-rejects": lambda address: _rejecting(),
    "mesh-forgotten-by-logging": lambda address: _forgotten(),
    "console-that-logs": lambda address: APP.addHandler(Talkative()),
    "console": lambda address: APP.addHandler(ConsoleHandler()),
    "console-on-root": lambda address: ROOT.addHandler(ConsoleHandler()),
    "console-with-own-emit": lambda address: APP.addHandler(OwnEmit()),
    "console-cut-off": lambda address: _cut_off(),
    "stream": lambda address: APP.addHandler(logging.StreamHandler()),
}


def work(kind: str, before: bool, capture: bool, address: str) -> None:
    """Add the second handler before or after `install`, and log twice: the first record of a schema takes another way."""
    ROOT.setLevel(logging.INFO)
    steps: list[Callable[[], object]] = [partial(SECOND[kind], address), partial(install, address, capture=capture)]
    for step in steps if before else reversed(steps):
        step()
    for number in range(2):
        APP.info("%s-%s-%d", kind, name_of(before, capture), number)
    other = logging.getLogger("other")
    other.info("%s-%s-other", kind, name_of(before, capture))
    text = f"{kind}-{name_of(before, capture)}-handled"
    other.handle(logging.makeLogRecord({"name": "app", "levelno": logging.INFO, "levelname": "INFO", "msg": text}))


def name_of(before: bool, capture: bool) -> str:
    """Return the name of a way."""
    return f"{'before' if before else 'after'}-{'captured' if capture else 'open'}"


if __name__ == "__main__":
    with LogClient() as client:
        address = os.environ["MESHLOG_ADDRESS"] = client.address
        for kind in SECOND:
            for before in (True, False):
                for capture in (True, False):
                    pid = os.fork()
                    if not pid:
                        work(kind, before, capture, address)
                        sys.stderr.flush()
                        os._exit(0)
                    assert os.waitpid(pid, 0)[1] == 0
