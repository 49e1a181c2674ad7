"""Programs whose logging is configured by `logging.config`, run as ``python -m tests.process.configured NAME``.

The handlers write to stdout, one record a line: level, rank, message.
"""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import multiprocessing
import os
import resource
import sys
import tempfile
from typing import Any

import meshlog_handler

SHOWN_BY = "aconsole"


def config(shown_by: str = SHOWN_BY, **options: Any) -> dict[str, Any]:
    """Return a configuration whose root logger forwards records, and whose handler `shown_by` writes to stdout."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "%(levelname)s %(rank)s %(message)s"}},
        "handlers": {
            "mesh": {"class": "meshlog_handler.MeshHandler", "handlers": [shown_by], **options},
            shown_by: {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "short"},
        },
        "root": {"level": "INFO", "handlers": ["mesh"]},
    }


def child(how: str, number: int, shown_by: str = SHOWN_BY) -> None:
    """Log one record, as a child process that is set up as `how` says."""
    if how == "config":
        logging.config.dictConfig(config(shown_by))
    elif how == "install":
        meshlog_handler.install(capture=False)
    logging.info("child %d %s", number, how)


def run_children(shown_by: str = SHOWN_BY) -> None:
    """Run children one after the other, with every start method and every way to set them up."""
    ways = [("fork", "plain")]
    ways += [(method, how) for method in ("fork", "spawn", "forkserver") for how in ("config", "install")]
    for number, (method, how) in enumerate(ways):
        context: Any = multiprocessing.get_context(method)
        proc = context.Process(target=child, args=(how, number, shown_by))
        proc.start()
        proc.join()
        assert proc.exitcode == 0


def family(shown_by: str) -> None:
    """Use one configuration for a parent and all its children."""
    logging.config.dictConfig(config(shown_by))
    logging.info("parent")
    run_children(shown_by)


def family_of_logger() -> None:
    """Configure a logger below the root logger: a child that applies the configuration and calls `install` has both."""
    chosen = config()
    chosen["root"] = {"level": "INFO"}
    chosen["loggers"] = {"app": {"handlers": ["mesh"]}}
    logging.config.dictConfig(chosen)
    for method in ("fork", "spawn"):
        for how in ("config install", "install config"):
            context: Any = multiprocessing.get_context(method)
            proc = context.Process(target=_child_of_logger, args=(how, chosen, f"{method} {how}"))
            proc.start()
            proc.join()
            assert proc.exitcode == 0


def _child_of_logger(how: str, chosen: dict[str, Any], name: str) -> None:
    for word in how.split():
        if word == "install":
            meshlog_handler.install(capture=False)
        else:
            logging.config.dictConfig(chosen)
    logging.getLogger("app.part").info(name)
    apart = logging.getLogger("app.apart")
    apart.propagate = False
    queued = apart.makeRecord(apart.name, logging.INFO, __file__, 1, f"{name} queued", (), None)
    for handler in logging.getLogger().handlers:  # as a queue listener does
        handler.handle(queued)


def invalid() -> None:
    """Make handlers with invalid arguments, and keep the errors, whose tracebacks refer to the handlers."""
    kept = []
    for options in (
        {"aggregate_window_sec": 0},
        {"on_full": "wait"},
        {"handlers": [3]},
        {"handlers": ["console"]},
        {"job": "a b"},
    ):
        try:
            meshlog_handler.MeshHandler(**options)
        except ValueError as failure:
            kept.append(failure)
    try:
        meshlog_handler.ConsoleHandler(ranks_filter="first")
    except ValueError as failure:
        kept.append(failure)
    print(len(kept))


def twice() -> None:
    """Replace the first configuration by a second one, in the same client."""
    logging.config.dictConfig(config("first"))
    address = os.environ["MESHLOG_ADDRESS"]
    logging.info("one")
    second = config("second")
    second["formatters"]["short"]["format"] = "second %(message)s"
    logging.config.dictConfig(second)
    assert os.environ["MESHLOG_ADDRESS"] == address
    logging.info("two")
    run_children("second")


def _started() -> logging.Handler:
    clients.append(meshlog_handler.LogClient().start())
    return logging.handlers.QueueHandler(clients[-1].queue)


clients: list[meshlog_handler.LogClient] = []


def by_factory() -> None:
    """Start a client in a factory, while `dictConfig` holds the lock of logging."""
    logging.config.dictConfig({"version": 1, "handlers": {"own": {"()": _started}}, "root": {"handlers": ["own"]}})
    logging.warning("by a factory")


COUNT = 500


def count() -> None:
    """Log `COUNT` records, as a child that applies the first configuration."""
    logging.config.dictConfig(_to_file("first"))
    for number in range(COUNT):
        logging.info("%d", number)


def _to_file(name: str) -> dict[str, Any]:
    made = config()
    made["handlers"][SHOWN_BY] = {"class": "logging.FileHandler", "filename": name}
    return made


def _count_in_child(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    proc = context.Process(target=count)
    proc.start()
    proc.join()


def reconfigured_after_child(method: str, directory: str) -> None:
    """Apply a second configuration at once after a child has ended: the first one must show the records of the child."""
    os.chdir(directory)
    logging.config.dictConfig(_to_file("first"))
    _count_in_child(method)
    logging.config.dictConfig(_to_file("second"))
    logging.info("after")


def shut_down_at_once(method: str, directory: str) -> None:
    """End at once after `logging.shutdown`, which must show the records of a child that has ended."""
    os.chdir(directory)
    logging.config.dictConfig(_to_file("first"))
    _count_in_child(method)
    logging.shutdown()
    os._exit(0)


FILE = """
[loggers]
keys=root
[handlers]
keys=mesh,shown
[formatters]
keys=short
[logger_root]
level=INFO
handlers=mesh
[handler_mesh]
class=meshlog_handler.MeshHandler
kwargs={"handlers": ["shown"]}
[handler_shown]
class=StreamHandler
formatter=short
args=(sys.stdout,)
[formatter_short]
format=%(levelname)s %(rank)s %(message)s
"""


def from_file() -> None:
    """Use the same configuration from a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as file:
        file.write(FILE)
        file.flush()
        logging.config.fileConfig(file.name)
    logging.info("parent")
    run_children()


def by_iterator() -> None:
    """Give one handler, and an iterator of handlers."""
    shown = logging.StreamHandler(sys.stdout)
    for handlers in (shown, iter([shown])):
        logging.root.handlers = [meshlog_handler.MeshHandler(handlers=handlers)]
        logging.warning(type(handlers).__name__)


def by_hand() -> None:
    """Set up the handlers without logging.config."""
    shown = logging.StreamHandler(sys.stdout)
    shown.setFormatter(logging.Formatter("%(levelname)s %(rank)s %(message)s"))
    root = logging.getLogger()
    root.setLevel("INFO")
    root.addHandler(meshlog_handler.MeshHandler(handlers=[shown]))
    logging.info("parent")
    run_children()


def unknown_name() -> None:
    """Name a handler that does not exist."""
    wrong = config()
    wrong["handlers"]["mesh"]["handlers"] = ["konsole"]
    logging.config.dictConfig(wrong)
    logging.warning("shown nevertheless")


def no_room() -> None:
    """Let no file take a byte: no temporary directory and no journal can be made."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    logging.config.dictConfig(config())
    logging.info("parent")
    context = multiprocessing.get_context("fork")
    proc = context.Process(target=child, args=("plain", 0))
    proc.start()
    proc.join()


def reconfigured_worker() -> None:
    """Join by `install`, then apply a complete configuration without a MeshHandler."""
    logger = logging.getLogger("early")
    meshlog_handler.install(capture=False)
    logger.info("before")
    own = config()
    del own["handlers"]["mesh"]
    own["root"]["handlers"] = [SHOWN_BY]
    own["formatters"]["short"]["format"] = "own console: %(message)s"
    logging.config.dictConfig(own)
    logger.info("after")


def dead_address() -> None:
    """Apply a configuration while the environment has the address of a stopped client."""
    logging.config.dictConfig(config())
    logging.info("parent")
    run_children()


def replaced_by_exec(*before: str) -> None:
    """Configure logging, and start the program anew in the same process, as servers do that reload themselves."""
    logging.config.dictConfig(config())
    logging.info("run %d", len(before))
    if len(before) < 2:
        os.execv(sys.executable, [sys.executable, "-m", "tests.process.configured", "replaced_by_exec", *before, "again"])


def worker_of_dead_client() -> None:
    """Install with the address of a stopped client: the logging of the process must stay as it was."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    meshlog_handler.install()
    logging.warning("kept")
    print("printed")


def stopped_twice() -> None:
    """Stop a client before its start, then start and use it twice; each start and stop is called twice."""
    shown = logging.StreamHandler(sys.stdout)
    shown.setFormatter(logging.Formatter("%(levelname)s %(rank)s %(message)s"))
    client = meshlog_handler.LogClient(shown)
    client.stop()
    for number in range(2):
        assert client.start() is client
        client.start()
        context = multiprocessing.get_context("fork")
        os.environ["MESHLOG_ADDRESS"] = client.address
        proc = context.Process(target=child, args=("install", number))
        proc.start()
        proc.join()
        client.stop()
        client.stop()
    assert not client.running


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
