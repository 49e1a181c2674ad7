"""Programs whose records go to several places, run as ``python -m tests.process.routes KIND HOW DIRECTORY``.

KIND is "plain" for the handlers of the standard library alone, or "mesh" for the same handlers, each behind a MeshHandler.
Each handler writes to its own file in DIRECTORY. The two kinds must write the same text.
"""

from __future__ import annotations

import logging
import logging.config
import multiprocessing
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import meshlog_handler

KIND, HOW, PLACE = "", "", Path()

request = ContextVar("request", default="-")


class AddRequest(logging.Filter):
    """Adds an attribute that only the logging thread knows."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attribute."""
        record.request = request.get()
        return True


class RequestFormatter(logging.Formatter):
    """Formats with a value that only the logging thread knows, like the formatters of Flask and Celery."""

    def format(self, record: logging.LogRecord) -> str:
        """Add the value."""
        return f"{request.get()} {super().format(record)}"


class NotHealth(logging.Filter):
    """Leaves out the requests of a health check."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is about another request."""
        return "health" not in record.getMessage()


def config(run: str = "") -> dict[str, Any]:
    """Return a configuration with an application log and an access log, as most servers have."""
    handlers: dict[str, Any] = {}
    for name in ("app", "access"):
        file: dict[str, Any] = {"class": "logging.FileHandler", "filename": str(PLACE / f"{name}{run}.log"), "formatter": name}
        if HOW == "filters":
            file["filters"] = [f"{name}_filter"]
        handlers[f"{name}_file"] = file
        if KIND == "mesh":
            handlers[name] = {"class": "meshlog_handler.MeshHandler", "handlers": [f"{name}_file"]}
    ours = {"()": RequestFormatter} if HOW == "formatters" else {}
    suffix = "" if KIND == "mesh" else "_file"
    request = "%(request)s " if HOW == "filters" else ""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"app_filter": {"()": AddRequest}, "access_filter": {"()": NotHealth}},
        "formatters": {"app": {"format": f"APP {request}%(message)s", **ours}, "access": {"format": "ACCESS %(message)s"}},
        "handlers": handlers,
        "root": {"level": "INFO", "handlers": [f"app{suffix}"]},
        "loggers": {"access": {"handlers": [f"access{suffix}"], "propagate": HOW == "both"}},
    }


def log(who: str) -> None:
    """Log to both logs, as the parent or a child."""
    request.set(f"request-{who}")
    logging.getLogger("shop").info("order by %s", who)
    logging.getLogger("access").info("GET /%s", who)
    logging.getLogger("access").info("GET /health")


def child(who: str, configures: bool, run: str = "") -> None:
    """Log in a child process."""
    if configures:
        logging.config.dictConfig(config(run))
    log(who)


def start(method: str, who: str, configures: bool, run: str = "") -> None:
    """Run a child to its end."""
    process = multiprocessing.get_context(method).Process(target=child, args=(who, configures, run))  # type: ignore[attr-defined]  # one of three
    process.start()
    process.join()
    assert process.exitcode == 0


def family() -> None:
    """Run a parent, and children that are forked from it or that apply its configuration."""
    logging.config.dictConfig(config())
    log("parent")
    start("fork", "forked", False)
    for method in ("fork", "spawn", "forkserver"):
        start(method, method, True)


def reloaded() -> None:
    """Apply the configuration again, for other files, while a child of the first one still runs."""
    logging.config.dictConfig(config("1"))
    log("first")
    told, tells = os.pipe()
    pid = os.fork()
    if not pid:
        log("child-before")
        os.read(told, 1)
        log("child-after")
        os._exit(0)
    logging.config.dictConfig(config("2"))
    log("second")
    os.write(tells, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    start("fork", "forked", False)
    start("spawn", "spawned", True, "2")


def installed() -> None:
    """Run workers that only call `install`: the parent's loggers decide. If plain, each applies the same configuration."""
    logging.config.dictConfig(config())
    log("parent")
    for method in ("spawn", "forkserver"):
        if KIND == "plain":
            start(method, method, True)
        else:
            process = multiprocessing.get_context(method).Process(target=install, args=(method,))  # type: ignore[attr-defined]  # one of two
            process.start()
            process.join()


def install(who: str) -> None:
    """Log in a worker that has no configuration."""
    meshlog_handler.install(capture=False)
    log(who)


def by_hand() -> None:
    """Put handlers made by hand on the root logger, one after the other."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for number in range(3):
        file = logging.FileHandler(PLACE / f"{number}.log")
        root.handlers[:] = [meshlog_handler.MeshHandler(handlers=[file]) if KIND == "mesh" else file]
        for line in range(50):
            logging.info("%d of %d", line, number)
        start("fork", f"fork-{number}", False)


def formatted() -> None:
    """Set a formatter and a filter on the handler of the root logger."""
    file = logging.FileHandler(PLACE / "formatted.log")
    handler = meshlog_handler.MeshHandler(handlers=[file]) if KIND == "mesh" else file
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    handler.addFilter(NotHealth())
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    log("parent")
    try:
        raise KeyError("gone")
    except KeyError:
        logging.exception("failed")
    start("fork", "forked", False)


class Intercept(logging.Handler):
    """Passes the message to another logging system, as in loguru's recipe, and ignores its formatter."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message."""
        with open(PLACE / "intercepted.log", "a") as file:
            file.write(record.getMessage() + "\n")


def basic() -> None:
    """Use `basicConfig`, which sets a formatter on each handler that has none."""
    handlers: list[logging.Handler] = [logging.FileHandler(PLACE / "basic.log"), Intercept()]
    if KIND == "mesh":
        handlers = [meshlog_handler.MeshHandler(handlers=[handler]) for handler in handlers]
    logging.basicConfig(level=logging.INFO, handlers=handlers, format=HOW or logging.BASIC_FORMAT)
    log("parent")
    start("fork", "forked", False)


def last_words() -> None:
    """End right after a call, without a chance to clean up."""
    how = HOW
    logging.config.dictConfig(config())
    log("parent")
    if how == "exec":
        os.execv(sys.executable, [sys.executable, "-c", "pass"])
    elif how == "_exit":
        os._exit(0)
    os.kill(os.getpid(), int(how))


def same_text() -> None:
    """Log odd records to a handler that writes their attributes."""
    shown = logging.FileHandler(PLACE / "shown.log")
    shown.setFormatter(logging.Formatter("%(levelname)s %(name)s %(processName)s %(threadName)s %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    root.addHandler(meshlog_handler.MeshHandler(handlers=[shown]) if KIND == "mesh" else shown)
    log = logging.getLogger("odd")
    log.info({"event": 1})
    log.debug("%(a)s", {"a": object})
    log.info("extra", extra={"rank": 7, "hostname": "db", "meshlog": "mine", "stream": 3})
    try:
        raise ValueError("cause")
    except ValueError:
        log.exception("failed %s", 1, stack_info=False)


if __name__ == "__main__":
    KIND, program, HOW = sys.argv[1:4]
    PLACE = Path(sys.argv[4])
    os.environ["PYTHONHASHSEED"] = "0"
    globals()[program]()
elif len(sys.argv) > 4 or multiprocessing.parent_process() is not None:
    # A child that multiprocessing spawns has the arguments of its parent.
    KIND, _, HOW = sys.argv[1:4]
    PLACE = Path(sys.argv[4])
