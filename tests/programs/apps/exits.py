"""One process that logs while it ends: ``exits.py ENDING``."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import tokenize  # noqa: F401  # Python 3.13 forgets that it was interrupted when a traceback has to import this
import weakref

import usual

log = logging.getLogger("app")


class Resource:
    def __init__(self, name: str) -> None:
        self.name = name

    def __del__(self) -> None:
        log.info("%s is collected", self.name)


def excepthook(kind, value, trace) -> None:
    log.critical("uncaught", exc_info=(kind, value, trace))


def terminated(number, frame) -> None:
    log.warning("stopped by %s", signal.Signals(number).name)
    sys.exit(0)


early = Resource("what was made early")
weakref.finalize(early, log.info, "finalizer made before the configuration")
atexit.register(log.info, "registered before the configuration")
usual.configure()
atexit.register(log.info, "registered after the configuration")
atexit.register(logging.getLogger("chatty").debug, "details at exit")
late = Resource("what was made late")
weakref.finalize(late, log.warning, "finalizer made after the configuration")
sys.excepthook = excepthook

for step in range(50):
    log.info("step %d", step)
ending = sys.argv[1]
if ending == "raises":
    raise ValueError("dies")
if ending == "sys.exit":
    sys.exit(3)
if ending == "os._exit":
    log.warning("leaves at once")
    os._exit(0)
if ending == "killed":
    log.warning("is killed")
    os.kill(os.getpid(), signal.SIGKILL)
if ending == "crashes":
    log.warning("crashes")
    os.abort()
if ending == "terminated":
    log.warning("waits")
    os.kill(os.getpid(), signal.SIGTERM)
if ending == "terminated-orderly":
    signal.signal(signal.SIGTERM, terminated)
    os.kill(os.getpid(), signal.SIGTERM)
if ending == "interrupted":
    os.kill(os.getpid(), signal.SIGINT)
if ending == "execv":
    log.warning("becomes another program")
    os.execv(sys.executable, [sys.executable, "-c", "print('another program')"])
if ending == "thread":
    threading.Thread(target=lambda: [log.info("thread %d", step) for step in range(200)]).start()
if ending == "shutdown":
    logging.shutdown()
    log.warning("after shutdown")
log.info("main ends")
