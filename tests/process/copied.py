"""Programs that copy, pickle and wrap handlers, run as ``python -m tests.process.copied NAME [METHOD]``.

The handlers write to stdout, one record a line: rank, level, message.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import pickle
import sys
from typing import Any

from meshlog_handler import MeshHandler


class Loud:
    """A filter that can be pickled."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Reject what is not loud."""
        return "quiet" not in record.getMessage()


class Tagged(MeshHandler):
    """A handler with an attribute of its own."""

    tags: tuple[list[str], ...] = ()


def tagged() -> Tagged:
    """Return a named handler with a tag, for loud records from WARNING on."""
    handler = Tagged(logging.WARNING, handlers=[console()])
    handler.addFilter(Loud())
    handler.name, handler.tags = "tagged", (["one"],)
    return handler


def console() -> logging.Handler:
    """Return a handler that writes rank, level and message."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(rank)s %(levelname)s %(message)s"))
    return handler


def child(handler: logging.Handler, text: str) -> None:
    """Log through a handler that was passed to this process."""
    assert isinstance(handler, Tagged)
    assert (handler.name, handler.tags) == ("tagged", (["one"],))
    log = logging.getLogger("copied")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG)
    log.warning(text)
    log.warning("quiet")
    log.info("below the level of the handler")


def run(method: str, target: Any, *args: object) -> None:
    """Run a function in a process."""
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=target, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0


def passed(method: str) -> None:
    """Pass a handler to a process: its records are shown by the handler that the parent named, not by the other one."""
    handler = tagged()
    MeshHandler(handlers=[logging.NullHandler()])
    run(method, child, handler, "from a child")
    run(method, child, pickle.loads(pickle.dumps(handler)), "from a child, copied twice")


def copies() -> None:
    """Copy a handler in each way."""
    handler = tagged()
    config = {"handlers": [handler]}
    for each in (copy.copy(handler), copy.deepcopy(config)["handlers"][0], pickle.loads(pickle.dumps(handler))):
        assert each is not handler
        child(each, "from a copy")
        each.close()
        assert vars(logging)["_handlers"]["tagged"] is handler
    handler.close()


def grandchild(text: str) -> None:
    """Log in a process that was started by one that has wrapped its handlers."""
    logging.getLogger("job").warning(text)


def wrapped() -> None:
    """Wrap the handlers of the root logger, and undo it."""
    root = logging.getLogger()
    theirs = [console(), logging.NullHandler()]
    root.handlers[:] = theirs
    handler = MeshHandler.wrap()
    assert MeshHandler.wrap() is handler
    assert root.handlers == [handler]
    logging.warning("wrapped")
    run("fork", grandchild, "from a child")
    handler.unwrap()
    handler.unwrap()
    assert root.handlers == theirs
    root.handlers[0].setFormatter(logging.Formatter("%(message)s"))
    logging.warning("plain again")
    other = MeshHandler.wrap("job", aggregate_window_sec=60)
    grandchild("on the console")
    assert logging.getLogger("job").handlers == [other]


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
