"""A training in which rank 1 is slow, and rank 3 gets stuck::

    meshlog run -n 4 --hang-after 5 --on-hang kill --log-dir logs -- python stuck_rank.py

Meanwhile, in another terminal: ``meshlog top``, ``meshlog stacks``, ``meshlog web``. After the end:
``meshlog report logs -o report.html``. Only the standard library is needed; the one line for meshlog is `install`.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from pathlib import Path

from meshlog_handler import install

RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
STEPS = 20
STEP_SEC = float(os.environ.get("STEP_SEC", "0.1"))
HERE = Path(tempfile.gettempdir()) / f"stuck-rank-{os.getppid()}"  # of this run: all ranks have one parent

logger = logging.getLogger("train")


def main() -> None:
    install()
    logging.getLogger().setLevel(logging.INFO)
    HERE.mkdir(exist_ok=True)
    logger.info("the model is loaded")
    for epoch in range(1, 4):
        for step in range(1, STEPS + 1):
            train(load_batch(epoch, step))
            logger.info("epoch %d step %d loss=%.3f", epoch, step, 1 / (epoch * STEPS + step))
        wait_for_others(epoch)
        logger.info("epoch %d done", epoch)


def load_batch(epoch: int, step: int) -> int:
    if RANK == 3 and epoch == 2 and step == STEPS // 2:
        ours, _theirs = socket.socketpair()
        ours.recv(1)  # the other end never answers
    if RANK == 1 and step == 5:
        logger.warning("the disk is slow: %.1f s for a batch", 2 * STEP_SEC)
    return step


def train(batch: int) -> None:
    time.sleep(STEP_SEC * (3 if RANK == 1 else 1))


def wait_for_others(epoch: int) -> None:
    (HERE / f"{epoch}-{RANK}").touch()
    while len(list(HERE.glob(f"{epoch}-*"))) < SIZE:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
