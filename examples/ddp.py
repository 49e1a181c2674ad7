"""A small training with DistributedDataParallel on CPUs; torchrun's process shows the logs of all ranks.

    torchrun --nproc-per-node 2 --logs-specs meshlog examples/ddp.py

Without torchrun's plug-in, each rank joins the client at ``MESHLOG_ADDRESS``, if it is set:
``torchrun --nproc-per-node 2 examples/ddp.py``. The example needs ``pip install meshlog-handler[torch]``.
"""

from __future__ import annotations

import logging
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from meshlog_handler import install

log = logging.getLogger("ddp")
SLOPE, OFFSET = 3.0, -1.0


def train(steps: int) -> float:
    """Fit a line, each rank on its own points; return the last loss."""
    torch.manual_seed(dist.get_rank())
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loss = torch.tensor(0.0)
    for step in range(steps):
        points = torch.rand(64, 1) * 2 - 1
        loss = torch.nn.functional.mse_loss(model(points), SLOPE * points + OFFSET)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            log.info("step %d loss=%.4f", step, loss.item())
    slope, offset = (parameter.item() for parameter in model.parameters())
    print(f"y = {slope:.1f} x {offset:+.1f}")
    return float(loss)


def main() -> None:
    """Train on every rank."""
    if "MESHLOG_ADDRESS" in os.environ:
        install()
    dist.init_process_group("gloo")
    try:
        loss = train(200)
        dist.barrier()
        log.info("rank %d of %d ends with loss=%.6f", dist.get_rank(), dist.get_world_size(), loss)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
