"""One rank of a job with a fault, for `detection`: ``python -m benchmarks.faulty FAULT DIRECTORY``.

The ranks train in step: load, compute, log, meet. They meet by a ring of named pipes in the directory. In step 3, rank 2
(or ranks 1 and 2) has the fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshlog_handler import install

RANK: Final = int(os.environ.get("RANK", "0"))
SIZE: Final = int(os.environ.get("WORLD_SIZE", "1"))
FAULTY: Final = 2
STEP: Final = 3
PACE_SEC: Final = 0.2
SLOW: Final = 3
"""How much longer a step of the straggler takes."""

_USUAL_SEC: Final = (1.0, 1.0, 2.0, 5.0, 20.0, 300.0)
_PERIOD_SEC: Final = 60

logger = logging.getLogger("train")


class Ring:
    """Lets all ranks meet: a byte goes round twice."""

    def __init__(self, directory: Path) -> None:
        ends = [directory / f"ring-{rank}" for rank in range(SIZE)]
        for end in ends:
            with contextlib.suppress(FileExistsError):  # another rank has made it
                os.mkfifo(end)
        self._read = os.open(ends[RANK], os.O_RDWR)
        self._next = os.open(ends[(RANK + 1) % SIZE], os.O_RDWR)

    def meet(self) -> None:
        """Return when all ranks have called this."""
        for _ in range(2):
            if RANK == 0:
                os.write(self._next, b".")
            os.read(self._read, 1)
            if RANK != 0:
                os.write(self._next, b".")


# -- faults: what rank 2 does in step 3 ------------------------------------------------------------------------------------


def lock_files(directory: Path) -> None:
    """Take two locks, the other one first in the other rank."""
    files = [open(directory / f"lock-{number}", "w") for number in (0, 1)]  # noqa: SIM115  # the process keeps them
    mine, theirs = files if RANK == FAULTY else reversed(files)
    fcntl.flock(mine, fcntl.LOCK_EX)
    time.sleep(0.5)  # the other one has its first lock by now
    fcntl.flock(theirs, fcntl.LOCK_EX)


def take_lock_twice(directory: Path) -> None:
    """Wait for a lock that this thread has."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def skip_collective(directory: Path) -> None:
    """Do something else while the others are in a collective."""
    logging.info("rank 2 writes a checkpoint")
    wait_for_writer(directory)


def wait_for_writer(directory: Path) -> None:
    """Wait for a process that never comes."""
    here, _there = socket.socketpair()
    here.recv(1)


def suspend_itself(directory: Path) -> None:
    """Stop, as by SIGSTOP from elsewhere."""
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_in_native_code(directory: Path) -> None:
    """Keep the GIL."""
    ctypes.PyDLL(None).sleep(600)


def log_into_full_disk(directory: Path) -> None:
    """Log into a file on a disk that is full."""
    handler = logging.FileHandler("/dev/full")
    logger.addHandler(handler)
    logger.info("saved the state")
    logger.removeHandler(handler)


def kill_itself(directory: Path) -> None:
    """End as by the kernel, when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def read_null(directory: Path) -> None:
    """Read from address 0."""
    ctypes.string_at(0)


def fail(directory: Path) -> None:
    """Raise."""
    raise OSError(errno.EIO, os.strerror(errno.EIO), "shard-7.bin")


def spin(directory: Path) -> None:
    """Compute for ever, and log nothing."""
    number = 1
    while number:
        number = number * 3 % 1_000_003


def read_pipe(directory: Path) -> None:
    """Read from a pipe to which nobody writes."""
    reader, _writer = os.pipe()
    os.read(reader, 1)


def spawn_into_fifo(directory: Path) -> None:
    """Start a process that cannot start: until it does, the kernel does not let this one be interrupted, and it has the GIL."""
    fifo = directory / "stdin"
    os.mkfifo(fifo)
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, str(fifo), os.O_RDONLY, 0)])


FAULTS: Final[dict[str, Callable[[Path], None]]] = {
    "deadlock": lock_files,
    "lock": take_lock_twice,
    "collective": skip_collective,
    "stopped": suspend_itself,
    "native": sleep_in_native_code,
    "full": log_into_full_disk,
    "killed": kill_itself,
    "segfault": read_null,
    "exception": fail,
    "busy": spin,
    "pipe": read_pipe,
    "uninterruptible": spawn_into_fifo,
}


def train(fault: str, directory: Path) -> None:
    """Train until the fault."""
    if fault == "late":
        note_begin(directory)
    meet = collective(directory) if fault == "collective" else Ring(directory).meet
    hit = (1, 2) if fault == "deadlock" else (FAULTY,)
    for step in range(1, 10_000):
        compute(fault)
        logger.info("step %d loss=%.3f", step, 1 / step)
        if step == STEP and RANK in hit and fault in FAULTS:
            note_begin(directory)
            FAULTS[fault](directory)
        meet()


def note_begin(directory: Path) -> None:
    """Note when the fault begins."""
    (directory / "began").write_text(str(time.time()))


def compute(fault: str) -> None:
    """Take the time of a step."""
    time.sleep(PACE_SEC * (SLOW if fault == "late" and RANK == FAULTY else 1))


def collective(directory: Path) -> Callable[[], None]:
    """Return a function that sums a number over all ranks, by gloo."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=RANK, world_size=SIZE)
    number = torch.ones(1)

    def add_up() -> None:
        distributed.all_reduce(number)

    return add_up


def work_apart(directory: Path) -> None:
    """Work without the other ranks; rank 2 takes three times as long for each step."""
    note_begin(directory)
    for step in range(1, 10_000):
        time.sleep(PACE_SEC * (SLOW if RANK == FAULTY else 1))
        logger.info("step %d loss=%.3f", step, 1 / step)


# -- no fault: the load of `false_alarms` ----------------------------------------------------------------------------------


def irregular(seconds: float, pause: float) -> None:
    """Log at irregular times, with pauses that all ranks make together; some ranks log rarely, or end early."""
    chance = random.Random(RANK)
    usual = _USUAL_SEC[RANK % len(_USUAL_SEC)]
    end = time.monotonic() + (seconds if len(_USUAL_SEC) > RANK else seconds / 4 * chance.random())
    logging.info("starts")
    while time.monotonic() < end:
        wait = min(chance.expovariate(1 / usual), end - time.monotonic())
        for _ in range(20):  # a progress bar meanwhile, of one rank
            time.sleep(max(0.0, wait / 20))
            if RANK == 1:
                sys.stderr.write(f"\rread: {chance.randrange(100)}%")
                sys.stderr.flush()
        late = time.time() % _PERIOD_SEC
        if late < pause:
            time.sleep(pause - late)
            logging.info("saved a checkpoint")
        logging.info("loss=%.3f", chance.random())
    logging.info("ends")


def busy(seconds: float) -> None:
    """Compute for long without a line, in this process or in a child process."""
    code = "import time\nwhile True:\n    sum(range(300_000)); time.sleep(0.02)"
    logging.info("computes")
    child = subprocess.Popen([sys.executable, "-c", code]) if RANK % 2 else None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if child is None:
            sum(range(300_000))
        time.sleep(0.02)
    if child is not None:
        child.kill()
        child.wait()
    logging.info("ends")


def main() -> None:
    """Run one rank."""
    install()
    logging.getLogger().setLevel(logging.INFO)
    fault, *words = sys.argv[1:]
    if fault == "irregular":
        irregular(float(words[0]), float(words[1]))
    elif fault == "computes":
        busy(float(words[0]))
    elif fault == "straggler":
        work_apart(Path(words[0]))
    else:
        train(fault, Path(words[0]))


if __name__ == "__main__":
    main()
