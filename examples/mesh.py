"""A mesh of four processes: grouped logs, a level changed at run time, and an exception with its remote traceback."""

from __future__ import annotations

import asyncio
import logging

from meshlog_handler import RankError, current_rank, this_host

log = logging.getLogger("train")


def step(number: int) -> float:
    """Do one training step of a very simple model."""
    loss = 1.0 / (number + 1 + current_rank() / 10)
    log.info("step %d loss=%.3f", number, loss)
    log.debug("rank %d has time for details", current_rank())
    return loss


def fail() -> None:
    """Raise an exception on one rank."""
    if current_rank() == 2:
        raise ValueError("the third rank has no data")


async def main() -> None:
    """Train, lower the level of one rank, and catch an exception from another."""
    async with this_host().spawn_procs(per_host={"gpus": 4}, name="trainers") as procs:
        await procs.logging_option(aggregate_window_sec=2.0, level=logging.INFO)
        for number in range(3):
            losses = await procs.call(step, number)
            await procs.flush()
        print(f"mean loss {sum(losses) / len(losses):.3f}")

        procs.logging.set_level("DEBUG", "train", ranks=[3], for_sec=60)
        await procs.call(step, 3)
        await procs.flush()

        try:
            await procs.call(fail)
        except RankError as error:
            print(f"failed on ranks {error.ranks}, because: {error.__cause__!r}")


if __name__ == "__main__":
    asyncio.run(main())
