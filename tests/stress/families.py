"""Faults with forks: workers that fork, become daemons, or replace themselves with another program."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from functools import partial

from tests.process.forkers import fork
from tests.process.procs import importing
from tests.waiting import until

from .faults import fault
from .inside import own_files
from .scene import DEADLINE, Scene
from .tally import Lane
from .workers import Worker, at_work


def reap(pids: Sequence[int]) -> None:
    """Wait for children; all must have exited normally."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert not any(codes), f"children ended with {codes}"


def log_some(lane: Lane, count: int) -> None:
    """Log some records."""
    for _ in range(count):
        lane.log()


@fault("a storm of forks while threads log")
def storm(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        threads = [worker.in_thread(worker.log_on, lane) for lane in (1, 2)]
        while not worker.tally.stopped:
            worker.lanes[0].log()
            pids = []
            for _ in range(min(worker.rng.randint(1, 8), len(worker.spares))):
                lane, count = worker.spare(), worker.rng.choice((0, 1, 30))
                pids.append(fork(lambda lane=lane, count=count: log_some(lane, count)))  # type: ignore[misc]  # a default binds it
            reap(pids)
        for thread in threads:
            thread.join()

    with scene.small_journals():
        scene.start(work, 2)
    scene.at_work(10)
    time.sleep(0.5)


@fault("forks while the journal is full")
def storm_while_full(scene: Scene) -> None:
    """Children inherit the state of a thread that waits for room. They join while the client is busy."""

    def work(worker: Worker) -> None:
        worker.join()
        threads = [worker.in_thread(worker.log_on, lane) for lane in (1, 2)]
        while not worker.tally.stopped:
            worker.lanes[0].log()
            pids = [fork(lambda: None) for _ in range(20)]
            if worker.spares:
                lane = worker.spare()
                pids.append(fork(lambda lane=lane: log_some(lane, 1)))  # type: ignore[misc]  # bound by a default argument
            reap(pids)
        for thread in threads:
            thread.join()

    scene.counting.before = lambda _: time.sleep(0.0002)
    scene.stall = 10 + 1  # the "block" policy allows this: the client has a mebibyte of each worker to show, and is slow
    with scene.small_journals():
        scene.start(work, 2)
    scene.at_work(3)
    time.sleep(0.5)
    scene.at_work(3)
    scene.counting.before = None


@fault("SIGKILL in a storm of forks")
def killed_storm(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        worker.in_thread(worker.log_on, 1)
        while not worker.tally.stopped:
            worker.lanes[0].log()
            if worker.spares:
                lane = worker.spare()
                fork(partial(log_some, lane, 200))

    scene.start(work, 3)
    scene.start(at_work, 1)
    scene.at_work(10)
    scene.struck.update(range(3))
    for index in range(3):
        scene.pause(0.05)
        scene.signal(index, 9)  # type: ignore[arg-type]  # SIGKILL, by number
    scene.at_work()
    scene.tally.stop()
    until(scene.quiet, DEADLINE, "the orphans to end")


@fault("children of children of children")
def generations(scene: Scene) -> None:
    def descend(worker: Worker, rng: random.Random, depth: int) -> None:
        lane = worker.spares[depth * 20]
        log_some(lane, rng.choice((0, 1, 500)))
        if depth:
            child = fork(lambda: descend(worker, rng, depth - 1))
            log_some(lane, 100)
            reap([child])
        log_some(lane, 100)

    def work(worker: Worker) -> None:
        worker.join()
        descend(worker, worker.rng, 6)
        worker.log_on()

    scene.start(work, 3)
    scene.at_work()


@fault("daemons: two forks, setsid, all descriptors closed")
def daemons(scene: Scene) -> None:
    def daemon(worker: Worker, lane: Lane, joined: bool) -> None:
        os.setsid()
        if os.fork():
            os._exit(0)
        if joined and worker.rng.random() < 0.5:
            log_some(lane, 10)
        os.closerange(3, 200)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if not joined:
            worker.join()
        with own_files(40):
            log_some(lane, 2000)

    def work(worker: Worker) -> None:
        joined = worker.rng.random() < 0.5
        if joined:
            worker.join()  # so the daemon inherits a membership, with or without a thread that logs
            log_some(worker.lanes[1], 1000)
            if worker.rng.random() < 0.5:
                worker.in_thread(worker.log_on, 2)
        reap([fork(lambda: daemon(worker, worker.lanes[3], joined))])
        until(lambda: worker.lanes[3].returned >= 2000, DEADLINE, "the daemon to log")
        worker.join()
        worker.log_on()

    scene.start(work, 3)
    scene.at_work()
    scene.tally.stop()
    until(scene.quiet, DEADLINE, "the daemons to end")


_OTHER = "import sys; from tests.stress.apart import log_on_lane; log_on_lane(*sys.argv[1:])"


@fault("a worker becomes another program (exec)", short=False)
def become(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        worker.log_on(until=lambda: worker.lanes[0].returned >= 500)
        words = [sys.executable, "-c", _OTHER, worker.tally.path, str(worker.lanes[1].number)]
        os.execve(sys.executable, words, importing({**os.environ, "MESHLOG_ADDRESS": worker.address}))

    scene.start(work, 2)
    scene.start(at_work, 1)
    until(lambda: all(lanes[1].returned > 20 for lanes in scene.lanes[:2]), DEADLINE, "the other programs to log")
    receipt = scene.flush(5)
    if receipt is not None and receipt.missing:
        scene.problems.append(f"a flush waits for what is no worker any more: {receipt}")
    numbers = scene.counting.numbers
    for lanes in scene.lanes[:2]:
        if len(numbers[lanes[0].number]) < lanes[0].returned:
            scene.problems.append("what was logged before the exec has not been shown when the flush ended")


@fault("a worker becomes another program, which does not log")
def become_silent(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        worker.log_on(until=lambda: worker.lanes[0].returned >= 500)
        worker.lanes[1].log()
        os.execv("/bin/sleep", ["sleep", "2"])

    scene.start(work, 2)
    scene.start(at_work, 1)
    until(lambda: all(lanes[1].returned for lanes in scene.lanes[:2]), DEADLINE, "the workers to log")
    begun = time.monotonic()
    receipt = scene.flush(10)
    if time.monotonic() - begun > 1.5 or receipt is None or receipt.missing:
        scene.problems.append(f"a flush waits for what is no worker any more: {receipt}")


@fault("children of multiprocessing, which end by os._exit")
def relatives(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        import multiprocessing

        worker.join()
        thread = worker.in_thread(worker.log_on, 1)
        context = multiprocessing.get_context("fork")
        while not worker.tally.stopped:
            worker.lanes[0].log()
            if len(worker.spares) > 4:
                children = [context.Process(target=log_some, args=(worker.spare(), 50)) for _ in range(3)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
                    assert child.exitcode == 0
        thread.join()

    scene.start(work, 2)
    scene.at_work(5)
    time.sleep(0.3)
