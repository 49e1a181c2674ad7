"""Becomes a daemon by the classic double fork, as soon as logging is configured: ``daemon.py LEAVE``."""

from __future__ import annotations

import logging
import os
import sys

import usual

log = logging.getLogger("app")


def leave() -> None:
    if sys.argv[1] == "_exit":
        os._exit(0)
    sys.exit(0)


def daemonize() -> None:
    parent, gone = os.pipe()
    if os.fork():
        leave()
    os.close(gone)
    os.read(parent, 1)  # the first process has ended
    if os.fork():
        leave()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


usual.configure()
log.info("in the foreground")
daemonize()
log.info("daemon begins")
log.warning("daemon warns")
for step in range(100):
    log.info("daemon: step %d", step)
log.info("daemon ends")
