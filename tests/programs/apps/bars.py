"""Processes that draw progress bars and log: ``bars.py tqdm|positions|rich``."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from meshlog_handler import LogClient, install

log = logging.getLogger("app")
STEPS = 40


def with_tqdm(number: int) -> None:
    """Draw one bar and log beside it."""
    from tqdm import tqdm

    for step in tqdm(range(STEPS), desc=f"worker {number}", ncols=70, mininterval=0):
        if step % 10 == 0:
            log.info("worker %d at step %d", number, step)
    log.info("worker %d is done", number)


def with_positions(number: int) -> None:
    """Draw the bar of this worker in a line of its own, as tqdm's documentation shows for processes."""
    from tqdm import tqdm

    for step in tqdm(range(STEPS), desc=f"worker {number}", position=number, ncols=70, mininterval=0):
        if step % 10 == 0:
            log.info("worker %d at step %d", number, step)
    log.info("worker %d is done", number)


def quietly(number: int) -> None:
    """Log, while the main process draws."""
    for step in range(0, STEPS, 10):
        log.info("worker %d at step %d", number, step)
    log.info("worker %d is done", number)


def main(kind: str) -> None:
    """Run three workers."""
    work = {"tqdm": with_tqdm, "positions": with_positions, "rich": quietly}[kind]
    if kind != "rich":
        with LogClient() as client, pool_of(client) as pool:
            list(pool.map(work, range(3)))
            client.flush()
        return
    from rich.logging import RichHandler
    from rich.progress import Progress

    with Progress() as progress:
        task = progress.add_task("working", total=3)
        handler = RichHandler(console=progress.console, show_time=False, show_path=False)
        with LogClient(handler) as client, pool_of(client) as pool:
            for _ in pool.map(work, range(3)):
                progress.advance(task)
            client.flush()


def pool_of(client: LogClient) -> ProcessPoolExecutor:
    """Return a pool whose workers log to the client."""
    return ProcessPoolExecutor(3, multiprocessing.get_context("spawn"), install, (client.address,))


if __name__ == "__main__":
    main(sys.argv[1])
