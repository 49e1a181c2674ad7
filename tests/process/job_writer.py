"""A program that applies one configuration with a job, as each of several siblings does, and logs numbered lines."""

from __future__ import annotations

import logging
import logging.config
import os
import signal
import sys
import time
from typing import Any

from meshlog_handler import complete
from meshlog_handler.transport.election import Election


def configuration(path: str, job: str | None = "shop", **more: Any) -> dict[str, Any]:
    """Return a configuration whose handler rotates a small file."""
    mesh = {"class": "meshlog_handler.MeshHandler", "handlers": ["file"], **more}
    rotating = {
        "class": "logging.handlers.RotatingFileHandler",
        "filename": path,
        "maxBytes": 20_000,
        "backupCount": 1000,
        "formatter": "plain",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(message)s"}},
        "handlers": {"file": rotating, "mesh": mesh if job is None else {**mesh, "job": job}},
        "root": {"level": "INFO", "handlers": ["mesh"]},
    }


def write(path: str, name: str, count: int, pause: float = 0.0) -> None:
    """Apply the configuration and log `count` lines. For a child of `multiprocessing`."""
    logging.config.dictConfig(configuration(path))
    for number in range(count):
        logging.getLogger("writer").info("%s %d", name, number)
        time.sleep(pause)


def fork(path: str, name: str, count: int) -> None:
    """Log from this process and from a forked child."""
    logging.config.dictConfig(configuration(path))
    child = os.fork()
    for number in range(count):
        logging.getLogger("writer").info("%s %d", name if child else f"{name}-child", number)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def keep_on(path: str, name: str) -> None:
    """Log until SIGTERM, and note on stdout how many logging calls have returned."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    logging.config.dictConfig(configuration(path))
    logger, number = logging.getLogger("writer"), 0
    while not stop:
        logger.info("%s %d", name, number)
        number += 1
        os.pwrite(1, b"%d" % number, 0)
        time.sleep(0.0005)


def log_late(path: str, name: str) -> None:
    """Log one line when the process that shows has stopped showing, note it on stdout, and wait for a line on stdin."""
    logging.config.dictConfig(configuration(path))
    election = Election("shop")
    shows = election.address()
    while election.address() == shows:
        time.sleep(0.001)
    logging.getLogger("writer").info("%s 0", name)
    os.write(1, b"1")
    sys.stdin.readline()


def read(path: str, job: str) -> None:
    """Read the file as soon as the children have ended that log to it."""
    config = configuration(path, job or None)
    config["handlers"]["file"] = {"class": "logging.FileHandler", "filename": path, "formatter": "plain"}
    logging.config.dictConfig(config)
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            for number in range(2000):
                logging.getLogger("writer").info("%d", number)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    shown = complete(30.0)
    with open(path) as file:
        print(shown, len(file.readlines()))


def change(path: str, name: str) -> None:
    """Log, configure logging without the job, log to another file, and wait for a line on stdin."""
    logging.config.dictConfig(configuration(path))
    logging.getLogger("writer").info("%s 0", name)
    config = configuration(f"{path}.other")
    config["root"]["handlers"] = ["file"]
    del config["handlers"]["mesh"]
    logging.config.dictConfig(config)
    logging.getLogger("writer").info("%s 1", name)
    print("changed", flush=True)
    sys.stdin.readline()


def alone(path: str) -> None:
    """Apply the configuration without a job, twice and also in a forked child, and wait for a line on stdin."""
    for _ in range(2):
        logging.config.dictConfig(configuration(path, None))
    logging.getLogger("writer").info("alone")
    child = os.fork()
    if not child:
        logging.config.dictConfig(configuration(path, None))
        os._exit(0)
    os.waitpid(child, 0)
    print("shown", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    _, act, *words = sys.argv
    if act == "write":
        write(words[0], words[1], int(words[2]), float(words[3]))
    elif act == "fork":
        fork(words[0], words[1], int(words[2]))
    elif act == "alone":
        alone(words[0])
    elif act == "log_late":
        log_late(words[0], words[1])
    elif act == "read":
        read(words[0], words[1])
    elif act == "change":
        change(words[0], words[1])
    else:
        keep_on(words[0], words[1])
