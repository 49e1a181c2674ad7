"""Programs that draw progress bars, run as ``python -m tests.process.bars NAME``."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from tqdm import tqdm

from meshlog_handler import LogClient, current_rank, install, this_host
from tests.waiting import until

STEPS = 24


def with_position(number: int) -> None:
    """Draw a bar at its own position, and log."""
    for step in tqdm(range(STEPS), desc=f"worker {number}", position=number, mininterval=0, miniters=1):
        if step % 8 == 4:
            logging.info("worker %d logs %d", number, step)
        time.sleep(0.1)
    logging.info("worker %d is done", number)


def nested(number: int) -> None:
    """Draw bars below each other, and log."""
    for step in tqdm(range(3), desc=f"outer {number}", mininterval=0):
        for _ in tqdm(range(8), desc=f"inner {number}", leave=False, mininterval=0):
            time.sleep(0.1)
        logging.info("outer %d logs %d", number, step)


def two_positions(go: str) -> None:
    """In a rank of ``meshlog run``: draw two bars below each other, wait for the file `go`, then log and finish the bars."""
    install()
    number = current_rank()
    names = [f"{name} {number}" for name in ("upper", "lower")]
    with ExitStack() as stack:
        bars = [stack.enter_context(tqdm(total=9, desc=name, position=at, mininterval=0)) for at, name in enumerate(names)]
        for step in range(9):
            for bar in bars:
                bar.update()
            if step == 3:
                until(lambda: os.path.exists(go), 60.0, "the bars of all ranks to be visible")
            if step % 3 == 1:
                logging.info("rank %d logs %d", number, step)
            time.sleep(0.02)


def log_lines(number: int) -> None:
    """Log two lines."""
    for line in range(2):
        logging.info("worker %d logs %d", number, line)


def of_client() -> None:
    """Draw bars in the client's process, while workers log."""
    with LogClient() as client, ExitStack() as stack:
        bars = [stack.enter_context(tqdm(total=3, desc=f"own {at}", position=at, mininterval=0)) for at in range(2)]
        with ProcessPoolExecutor(2, initializer=install, initargs=(client.address,)) as pool:
            for number in range(3):
                pool.submit(log_lines, number).result()
                client.flush()
                for bar in bars:
                    bar.update()


def by_rich(number: int) -> None:
    """Draw two bars as rich does on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(force_terminal=True, width=60)) as progress:
        tasks = [progress.add_task(f"{name} {number}", total=STEPS) for name in ("first", "second")]
        for step in range(STEPS):
            for task in tasks:
                progress.update(task, advance=1)
            if step % 8 == 4:
                logging.info("rich %d logs %d", number, step)
            time.sleep(0.1)


def pool(work: Callable[[int], None], count: int = 3) -> None:
    """Run `work` in each worker of a pool."""
    context: Any = multiprocessing.get_context("spawn")
    with LogClient() as client, ProcessPoolExecutor(count, context, install, (client.address,)) as executor:
        list(executor.map(work, range(count)))
        client.flush()


def say_size() -> tuple[int, int]:
    """Return the width and height of the terminal, as a rank sees them."""
    size = shutil.get_terminal_size((0, 0))
    return size.columns, size.lines


def mesh() -> None:
    """Print the size that ranks of a mesh see, for each start method."""
    for method in ("fork", "spawn", "forkserver"):
        with this_host().spawn_procs({"gpus": 1}, start_method=method) as procs:
            print(method, *procs.call(say_size).get())


if __name__ == "__main__":
    name = sys.argv[1]
    if name == "mesh":
        mesh()
    elif name == "size":
        print("size", *say_size())
    elif name == "of_client":
        of_client()
    elif name == "two_positions":
        two_positions(sys.argv[2])
    else:
        pool(globals()[name])
