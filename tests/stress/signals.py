"""Faults from outside: workers are killed, stopped, and crash."""

from __future__ import annotations

import os
import signal
import time

from .faults import fault
from .scene import Scene
from .workers import Worker, at_work


@fault("SIGKILL of 1 to all workers")
def kill(scene: Scene) -> None:
    scene.start()
    scene.at_work()
    for index in scene.choose():
        scene.pause(0.01)
        scene.signal(index, signal.SIGKILL)
    scene.at_work()


@fault("SIGKILL of all workers, at once")
def kill_all(scene: Scene) -> None:
    scene.start()
    scene.at_work()
    scene.pause()
    for index in scene.choose(len(scene.procs)):
        scene.signal(index, signal.SIGKILL)


@fault("SIGKILL while they join")
def kill_while_they_join(scene: Scene) -> None:
    scene.start()
    scene.pause(0.1)
    for index in scene.choose():
        scene.signal(index, signal.SIGKILL)
    scene.at_work()


@fault("SIGSTOP, then SIGCONT")
def stop_and_go(scene: Scene) -> None:
    scene.start()
    scene.at_work()
    stopped = scene.choose()
    for index in stopped:
        scene.pause(0.01)
        scene.signal(index, signal.SIGSTOP)
    scene.at_work()
    scene.pause(0.3)
    for index in stopped:
        scene.signal(index, signal.SIGCONT)
    scene.at_work(which=stopped)
    scene.at_work()


@fault("SIGSTOP, then SIGKILL")
def stop_and_kill(scene: Scene) -> None:
    scene.start()
    scene.at_work()
    stopped = scene.choose()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for index in stopped:
            scene.pause(0.01)
            scene.signal(index, number)
        scene.at_work()


@fault("SIGTERM, without a handler")
def terminate(scene: Scene) -> None:
    scene.start()
    scene.at_work()
    for index in scene.choose():
        scene.pause(0.01)
        scene.signal(index, signal.SIGTERM)
    scene.at_work()


def crash(worker: Worker) -> None:
    """Log for a while, then crash as a program does."""
    worker.join()
    crash_at = time.monotonic() + worker.rng.random() * 0.1
    worker.log_on(until=lambda: time.monotonic() > crash_at)
    os.kill(os.getpid(), signal.SIGSEGV)


@fault("SIGSEGV")
def segfault(scene: Scene) -> None:
    scene.start(at_work)
    scene.at_work()
    before = len(scene.procs)
    scene.start(crash, scene.rng.randint(1, 3))
    scene.struck.update(range(before, len(scene.procs)))
    scene.join([*scene.struck], (-signal.SIGSEGV,))
    scene.at_work()


@fault("SIGKILL while the journal is full")
def kill_while_full(scene: Scene) -> None:
    with scene.small_journals():
        scene.start()
        scene.at_work()
    with scene.held_up():
        scene.until_all_wait()
        for index in scene.choose():
            scene.signal(index, signal.SIGKILL)
        scene.join([*scene.struck], (-signal.SIGKILL,))
        scene.stall = 60  # the survivors also had to wait
    scene.at_work()


@fault("SIGKILL while records are dropped")
def kill_while_dropping(scene: Scene) -> None:
    with scene.small_journals():
        scene.start(on_full="drop")
        scene.at_work()
    with scene.held_up():
        scene.at_work(100)
        for index in scene.choose():
            scene.pause()
            scene.signal(index, signal.SIGKILL)
        scene.at_work(100)
    scene.at_work()
