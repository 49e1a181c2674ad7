"""Faults inside a worker: effects of other code in the same process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .faults import fault
from .scene import Scene
from .tally import LOGGER, Lane
from .workers import Worker, at_work


def _run(scene: Scene, work: Callable[[Worker], object], seconds: float = 0.4, **options: Any) -> None:
    """Let some workers do this while others log; all of them must end normally."""
    scene.start(at_work, 1)
    if scene.rng.random() < 0.5:
        with scene.small_journals():
            scene.start(work, 2, **options)
    else:
        scene.start(work, 2, **options)
    scene.at_work()
    time.sleep(seconds)
    scene.at_work()


# -- descriptors -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_files(count: int) -> Iterator[None]:
    """Open some files, which get the lowest free numbers, and check that nothing else uses them."""
    content = b"mine " * 100_000
    files = []
    for _ in range(count):
        file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below, all together
        file.write(content)
        file.flush()
        files.append(file)
    yield
    for file in files:
        assert os.pread(file.fileno(), 2 * len(content), 0) == content
        file.close()


@fault("a worker closes all descriptors")
def close_all(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        count = worker.rng.randrange(2000)
        worker.log_on(until=lambda: worker.lanes[0].returned >= count)
        os.closerange(3, 200)
        with own_files(worker.rng.choice((0, 1, 40))):
            worker.log_on()

    _run(scene, work, capture=False)
    scene.allowed = "Bad file descriptor|Errno 9"


@fault("a worker has no descriptor left")
def no_descriptor(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        count = worker.rng.randrange(2000)
        worker.log_on(until=lambda: worker.lanes[0].returned >= count)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        with contextlib.suppress(OSError):  # no descriptor is free any more
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        worker.log_on()
        for fd in held:
            os.close(fd)

    _run(scene, work)


# -- exceptions that come from outside ---------------------------------------------------------------------------------


class Interrupt(BaseException):
    """An exception that may arrive anywhere."""


# If it is raised in the callback of a weak reference, Python can only print it. The last line of a traceback is enough.
_INTERRUPTED = "Interrupt|^(stderr: )?Traceback"


def throw(ident: int, error: type[BaseException]) -> None:
    """Raise an exception in another thread."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


def _silently(_: object) -> None:
    """Report nothing about a thread that was killed on purpose."""


@fault("an exception in the forwarder's thread")
def forwarder_killed(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        threading.excepthook = sys.unraisablehook = _silently
        worker.join()

        def strike() -> None:
            rng = random.Random(worker.rng.random())
            while not worker.tally.stopped:
                for thread in threading.enumerate():
                    if thread.name == "meshlog-forwarder" and thread.ident is not None:
                        throw(thread.ident, rng.choice((SystemExit, RuntimeError, KeyboardInterrupt)))
                time.sleep(rng.random() * rng.choice((0.001, 0.02)))

        worker.in_thread(strike)
        worker.in_thread(worker.log_on, 1)
        worker.log_on()

    _run(scene, work)


@fault("an exception in a thread that logs")
def logging_thread_killed(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        threading.excepthook = sys.unraisablehook = _silently
        worker.join()
        victims = {lane: worker.in_thread(worker.log_on, lane) for lane in (1, 2)}

        def strike() -> None:
            rng = random.Random(worker.rng.random())
            while not worker.tally.stopped:
                for lane, thread in victims.items():
                    if not thread.is_alive():
                        worker.lanes[lane] = worker.spare()
                        victims[lane] = worker.in_thread(worker.log_on, lane)
                    elif thread.ident is not None:
                        throw(thread.ident, Interrupt)
                time.sleep(rng.random() * 0.02)

        worker.in_thread(strike)
        worker.log_on()
        for thread in victims.values():
            thread.join()

    _run(scene, work)
    scene.allowed = _INTERRUPTED


@fault("a signal handler that raises, each few ms")
def raising_handler(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        rng = random.Random(worker.rng.random())

        def handle(_: int, frame: Any) -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + rng.random() * 0.004)
            # During the call, but not while it is being counted.
            if worker.lanes[0].inside and frame is not None and not frame.f_code.co_filename.endswith("tally.py"):
                raise Interrupt

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        worker.in_thread(worker.log_on, 1)
        while not worker.tally.stopped:
            with contextlib.suppress(Interrupt):  # what this fault is about
                worker.log_on()
        signal.setitimer(signal.ITIMER_REAL, 0)

    _run(scene, work)
    scene.allowed = _INTERRUPTED


# -- logging in the middle of logging ----------------------------------------------------------------------------------


def _once_at_a_time(lane: Lane) -> Callable[[], None]:
    busy = False

    def log() -> None:
        nonlocal busy
        if not busy:
            busy = True
            lane.log(LOGGER.info, "%d %d from inside")
            busy = False

    return log


@fault("a signal handler that logs, each ms")
def logging_handler(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        log = _once_at_a_time(worker.lanes[2])
        signal.signal(signal.SIGALRM, lambda *_: log())
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        worker.in_thread(worker.log_on, 1)
        worker.log_on()
        signal.setitimer(signal.ITIMER_REAL, 0)

    _run(scene, work)


@fault("the garbage collector runs in every call")
def garbage(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()
        log = _once_at_a_time(worker.lanes[2])

        class Garbage:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                log()

        def litter() -> bool:
            Garbage()
            return False

        gc.set_threshold(1, 1, 1)
        worker.log_on(until=litter)
        gc.set_threshold(0)

    _run(scene, work)


@fault("a __repr__ that logs")
def talkative(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        worker.join()

        class Talkative:
            def __repr__(self) -> str:
                for _ in range(worker.rng.choice((1, 3, 50))):
                    worker.lanes[2].log(LOGGER.info, "%d %d %s", worker.rng.choice((1, "x" * 500, self.__dict__)))
                return "talkative"

        while not worker.tally.stopped:
            worker.lanes[0].log(LOGGER.info, "%d %d %r", Talkative())
            worker.lanes[0].log()

    _run(scene, work)


# -- time and threads --------------------------------------------------------------------------------------------------


@fault("the clock is set, each few ms")
def clock(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        rng, real, real_ns = random.Random(worker.rng.random()), time.time, time.time_ns
        offset = 0.0

        def step() -> None:
            nonlocal offset
            while not worker.tally.stopped:
                offset = rng.choice((0.0, -1.0, 3600.0, -86400.0, 1e9, -real(), -2e9, rng.gauss(0, 10)))
                time.sleep(rng.random() * 0.01)

        time.time = lambda: real() + offset
        time.time_ns = lambda: real_ns() + int(offset * 1e9)
        worker.join()
        worker.in_thread(step)
        worker.log_on()

    _run(scene, work)


@fault("threads that take turns at each step")
def switching(scene: Scene) -> None:
    def work(worker: Worker) -> None:
        sys.setswitchinterval(1e-6)
        worker.join()
        threads = [worker.in_thread(worker.log_on, lane) for lane in range(1, 5)]
        worker.log_on()
        for thread in threads:
            thread.join()

    _run(scene, work)
