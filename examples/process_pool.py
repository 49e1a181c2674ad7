"""A process pool whose workers log and print; this process shows all of it."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor

from meshlog_handler import LogClient, install

log = logging.getLogger("squares")


def square(number: int) -> int:
    """Square a number; log it and print it."""
    log.info("squaring %d", number)
    print(f"{number} squared is {number * number}")
    return number * number


def main() -> None:
    """Square some numbers in three workers."""
    with LogClient(aggregate_window_sec=1.0) as client:
        with ProcessPoolExecutor(3, initializer=install, initargs=(client.address,)) as pool:
            total = sum(pool.map(square, range(9)))
        receipt = client.flush()
        print(f"total {total}, dropped {receipt.dropped}")


if __name__ == "__main__":
    main()
