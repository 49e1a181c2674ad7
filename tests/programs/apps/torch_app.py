"""A DataLoader whose workers log: ``torch_app.py METHOD PERSISTENT``."""

from __future__ import annotations

import logging
import sys

import usual
from torch.utils.data import DataLoader, Dataset

log = logging.getLogger("data")


class Numbers(Dataset):
    """Logs each item it gives."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        log.info("item %d", index)
        if index == 5:
            log.warning("item %d is odd", index)
        return index


def configure(worker: int) -> None:
    """Configure logging in a worker, and name it."""
    if sys.argv[1] != "fork":
        usual.configure()
    log.info("worker %d begins", worker)


if __name__ == "__main__":
    usual.configure()
    loader = DataLoader(
        Numbers(),
        batch_size=2,
        num_workers=2,
        worker_init_fn=configure,
        persistent_workers=sys.argv[2] == "yes",
        multiprocessing_context=sys.argv[1],
    )
    for epoch in range(2):
        log.info("epoch %d: %d", epoch, sum(int(batch.sum()) for batch in loader))
    log.info("main ends")
