"""Workers whose client stops normally while they work. Their own output goes to files."""

from __future__ import annotations

import logging
import logging.config
import os
import subprocess
import sys
import threading
import time
from typing import Any

import meshlog_handler
from meshlog_handler.worker import this_process
from tests.process.endings import CONFIG
from tests.process.orphans import redirect
from tests.process.procs import DEADLINE
from tests.waiting import until

LOGGER = logging.getLogger("released")
NEVER = 1_000_000


def set_up(address: str, how: str) -> None:
    """Join: by `install` next to a console handler, or by a configuration whose handler writes to stdout."""
    logging.getLogger().handlers.clear()
    if how == "install":
        logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
        meshlog_handler.install(address)
        return
    os.environ["MESHLOG_ADDRESS"] = address
    logging.config.dictConfig(CONFIG)


def log_all_the_time(address: str, directory: str, name: str, how: str, threads: int, counts: Any, place: int) -> None:
    """Log numbers on several threads, beyond the client's stop, until ``counts[0]``; ``counts[place]`` counts the calls."""
    redirect(directory, name)
    set_up(address, how)
    done = [0] * threads

    def log(thread: int) -> None:
        for number in range(NEVER):
            LOGGER.info("%s %d %d", name, thread, number)
            done[thread] = number + 1
            counts[place] = sum(done)
            if counts[0]:
                return
            if number % 10 == 9:
                time.sleep(0.0005)  # the client and the test need time to run, too

    running = [threading.Thread(target=log, args=(thread,)) for thread in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    sys.stdout.flush()


def log_in_steps(address: str, directory: str, how: str, ready: Any, go: Any) -> None:
    """Log and print before and after the client stops; let a subprocess print, and a fork log, too."""
    redirect(directory, "worker")
    set_up(address, how)
    said = os.path.join(directory, "said")
    words = ["sh", "-c", 'echo early shell; : > "$0"; read line; echo late shell', said]
    shell = subprocess.Popen(words, stdin=subprocess.PIPE, text=True)
    forked = os.fork()
    if not forked:
        assert go.acquire(timeout=DEADLINE)
        LOGGER.info("late fork")
        os._exit(0)
    LOGGER.info("early")
    print("early print", flush=True)
    until(lambda: os.path.exists(said), DEADLINE, "the shell to print")
    ready.release()
    assert go.acquire(timeout=DEADLINE)
    until(lambda: this_process.current() is None, DEADLINE, "the end of the client to be heard of")
    LOGGER.info("late")
    print("late print", flush=True)
    shell.communicate("go\n")
    assert shell.returncode == 0
    os.waitpid(forked, 0)


def log_to_two(first: str, directory: str, ready: Any, second: Any) -> None:
    """Join a client, and another one after the first has stopped."""
    redirect(directory, "worker")
    set_up(first, "install")
    LOGGER.info("to the first")
    ready.release()
    assert second.poll(DEADLINE)
    address = second.recv()
    LOGGER.info("to nobody")
    meshlog_handler.install(address)
    LOGGER.info("to the second")
    print("printed", flush=True)
