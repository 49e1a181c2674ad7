"""Faults of the client: it is killed or stopped, and its handlers raise, hang and are slow."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from typing import Any

from . import apart
from .faults import fault
from .scene import DEADLINE, Scene


def _apart(scene: Scene) -> tuple[Any, Any]:
    """Start a client in a separate process; return the process and the connection to it."""
    context: Any = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    proc = context.Process(target=apart.run_client, args=(theirs, scene.tally.path))
    proc.start()
    theirs.close()
    scene.apart = proc, mine
    assert mine.poll(DEADLINE)
    scene.address = mine.recv()
    return proc, mine


@fault("SIGKILL of the client")
def kill(scene: Scene) -> None:
    proc, _ = _apart(scene)
    with scene.small_journals():
        scene.start()
    scene.at_work()
    scene.pause(0.1)
    proc.kill()
    proc.join()
    scene.kills += 1
    scene.at_work(500)
    scene.lose_client()


@fault("SIGKILL of the client while the journals are full")
def kill_while_full(scene: Scene) -> None:
    proc, _ = _apart(scene)
    with scene.small_journals():
        scene.start()
    scene.at_work()
    os.kill(proc.pid, signal.SIGSTOP)
    scene.until_all_wait()
    stopped = time.monotonic()
    proc.kill()
    proc.join()
    scene.kills += 1
    scene.at_work(500)
    scene.stall = 10 + time.monotonic() - stopped
    scene.lose_client()


@fault("SIGSTOP of the client, then SIGCONT")
def stop_and_go(scene: Scene) -> None:
    proc, _ = _apart(scene)
    with scene.small_journals():
        scene.start()
    scene.at_work()
    scene.pause()
    seconds = scene.rng.choice((0.1, 0.5, 2.0))
    os.kill(proc.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(proc.pid, signal.SIGCONT)
    scene.at_work()
    scene.stall = seconds + 1


@fault("the client is stopped in order, workers go on")
def stop_in_order(scene: Scene) -> None:
    client = scene.show()
    with scene.small_journals():
        scene.start()
    scene.at_work()
    scene.pause()
    client.stop()
    scene.at_work(500)
    scene.lose_client()
    # Workers without handlers log WARNING and above to stderr, as plain logging does, with the traceback. Until their handlers
    # are removed, `MeshHandler` does it.
    scene.allowed += r"|^Traceback|^ValueError: in a worker$|^ +raise ValueError\(\"in a worker\"\)$"


@fault("a handler that raises")
def raises(scene: Scene) -> None:
    def fail(record: logging.LogRecord) -> None:
        if scene.rng.random() < 0.3:
            raise RuntimeError("a broken handler")

    scene.counting.before = fail
    scene.allowed = "a broken handler"
    scene.start()
    scene.at_work(200)


@fault("a handler that hangs for some seconds")
def hangs(scene: Scene) -> None:
    seconds = scene.rng.choice((0.5, 1.0, 3.0))
    at = scene.rng.randrange(1000)

    def hang(record: logging.LogRecord) -> None:
        nonlocal at
        at -= 1
        if at == 0:
            time.sleep(seconds)

    scene.counting.before = hang
    with scene.small_journals():
        scene.start()
    scene.at_work()
    time.sleep(seconds)
    scene.at_work()
    scene.stall = seconds + 1


@fault("a handler that takes 10 ms a record")
def dawdles(scene: Scene) -> None:
    scene.counting.before = lambda _: time.sleep(0.01)
    with scene.small_journals():
        scene.start(count=2)
    time.sleep(1)
    scene.stall = 10 + 1  # the time that the "block" policy allows
    scene.tally.stop()
    scene.counting.before = None


@fault("a handler that takes 10 ms a record; to drop is the policy", short=False)
def dawdles_and_drops(scene: Scene) -> None:
    scene.counting.before = lambda _: time.sleep(0.01)
    with scene.small_journals():
        scene.start(on_full="drop")
    scene.at_work(2000)
    scene.counting.before = None
