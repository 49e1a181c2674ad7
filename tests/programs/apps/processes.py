"""Starts two processes that log, and lets them end in one of many ways: ``processes.py ENDING METHOD``."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time

import usual

log = logging.getLogger("app")


def work(number: int, ending: str, method: str, ready=None) -> None:
    if method != "fork":
        usual.configure()
    log.info("child %d begins", number)
    logging.getLogger("chatty").debug("child %d has details", number)
    logging.getLogger("silent").warning("nobody sees this")
    for step in range(20):
        log.info("child %d: step %d", number, step)
    log.warning(f"child {number} has done {step + 1} steps")
    if ending == "unjoined":
        time.sleep(0.3)
    elif ending == "daemon":
        ready.put(number)
        time.sleep(60)
    elif ending == "os._exit":
        log.error("child %d leaves at once", number)
        os._exit(3)
    elif ending == "sys.exit":
        sys.exit(4)
    elif ending == "raises":
        try:
            int("no number")
        except ValueError:
            log.exception("child %d fails", number)
        raise SystemExit(5)
    elif ending in ("killed", "terminated"):
        log.info("child %d waits for its end", number)
        os.kill(os.getpid(), signal.SIGKILL if ending == "killed" else signal.SIGTERM)
    elif ending == "grandchild":
        log.info("child %d forks", number)
        if method == "fork":
            pid = os.fork()
            if not pid:
                log.info("grandchild of %d", number)
                os._exit(0)
            os.waitpid(pid, 0)
    log.info("child %d ends", number)


if __name__ == "__main__":
    ending, method = sys.argv[1:]
    usual.configure()
    log.info("main begins")
    context = multiprocessing.get_context(method)
    ready = context.Queue() if ending == "daemon" else None
    children = [
        context.Process(target=work, args=(number, ending, method, ready), daemon=ending == "daemon") for number in range(2)
    ]
    for child in children:
        child.start()
    if ending == "daemon":
        for _ in children:
            ready.get()
    elif ending != "unjoined":
        for child in children:
            child.join()
            log.info("a child has ended with %s", child.exitcode)
    log.info("main ends")
