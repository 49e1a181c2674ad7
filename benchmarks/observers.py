"""What an observer that is stopped costs a job under full load: ``python -m benchmarks.observers [--rounds N] [--only NAME]``.

Two workers log as fast as they can into a client in this process. Windows of one second take turns: two begin when `meshlog
follow`, `top` or `web` has joined and was stopped (SIGSTOP), one has no observer. In the first one, the client still fills what
the observer does not read. The last command runs, but no browser looks at its page. Each round has a ratio of the rates, and
one of the client's processor time for each record. The table has the medians, and the middle half of the rounds: on a busy
machine, it says how far the medians can be trusted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any, Final, NamedTuple

from meshlog_handler import LogClient, install

from .handlers import Counter

_WINDOW_SEC: Final = 1.0
_FULL_SEC: Final = 4.0
_WAIT_SEC: Final = 30.0
COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "nothing": (),
    "follow": ("follow",),
    "top": ("top", "--interval", "0.2"),
    "follow --level": ("follow", "--level", "INFO"),
    "web": ("web", "--port", "0"),
    "web, nobody looks": ("web", "--port", "0"),
}
"""With "nothing", all windows are without an observer: it shows the noise."""
_RUNNING: Final = "web, nobody looks"


class Window(NamedTuple):
    """Records per second, and microseconds of processor time of the client for each."""

    rate: float
    cost: float


def work(address: str, rank: int) -> None:
    """Log until killed."""
    install(address, capture=False, rank=rank)
    number = 0
    while True:
        number += 1
        logging.info("step %d loss=%.3f", number, 0.5)


def measure(client: LogClient) -> Window:
    """Measure one window."""
    records, spent, began = _received(client), time.process_time(), time.perf_counter()
    time.sleep(_WINDOW_SEC)
    count, used, seconds = _received(client) - records, time.process_time() - spent, time.perf_counter() - began
    return Window(count / seconds, used / max(1, count) * 1e6)


def _received(client: LogClient) -> int:
    return sum(each.received for each in client.stats().values())


@contextlib.contextmanager
def observing(name: str) -> Iterator[None]:
    """Start an observer on a terminal, and stop it, unless it is to run, when it has written something."""
    command = COMMANDS[name]
    if not command:
        yield
        return
    master, terminal = pty.openpty()
    words = [sys.executable, "-m", "meshlog_handler", command[0], str(os.getpid()), *command[1:]]
    process = subprocess.Popen(words, stdin=terminal, stdout=terminal, stderr=subprocess.STDOUT, start_new_session=True)
    os.close(terminal)
    try:
        os.read(master, 65536)
        if name != _RUNNING:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        process.kill()
        process.wait(_WAIT_SEC)
        os.close(master)


def rounds(client: LogClient, name: str, count: int) -> list[tuple[Window, Window, Window]]:
    """Return windows: the first with the observer, one when the client has nothing more to fill, and one without."""
    found = []
    for number in range(count):
        before = measure(client) if number % 2 else None
        with observing(name):
            first = measure(client)
            time.sleep(_FULL_SEC)
            later = measure(client)
        found.append((first, later, before or measure(client)))
    return found


def rows(name: str, measured: list[tuple[Window, Window, Window]]) -> Iterator[str]:
    """Yield two rows of the table."""
    rate, cost = median(each.rate for _, _, each in measured), median(each.cost for _, _, each in measured)
    for at, when in enumerate(("first second", f"after {_FULL_SEC + _WINDOW_SEC:g} s")):
        rates = [each[at].rate / each[2].rate for each in measured]
        costs = [each[at].cost / each[2].cost for each in measured]
        yield f"| {name}, {when} | {rate:,.0f} | {_spread(rates)} | {cost:.2f} | {_spread(costs)} |"


def _spread(ratios: list[float]) -> str:
    low, _, high = quantiles(ratios, n=4)
    return f"{median(ratios):.3f} ({low:.3f}..{high:.3f})"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observers", description="What a stopped observer costs.")
    parser.add_argument("--rounds", type=int, default=30, metavar="N")
    parser.add_argument("--only", choices=COMMANDS, action="append", help="these observers (all)")
    options = parser.parse_args()
    logging.raiseExceptions = False
    context: Any = multiprocessing.get_context("spawn")
    with LogClient(Counter(1 << 62)) as client:
        workers = [context.Process(target=work, args=(client.address, rank), daemon=True) for rank in range(2)]
        for worker in workers:
            worker.start()
        try:
            while _received(client) < 10_000:
                time.sleep(0.1)
            print("| stopped | records/s without | rate with / without | µs a record | processor time with / without |")
            print("| --- | ---: | --- | ---: | --- |", flush=True)
            for name in options.only or COMMANDS:
                print("\n".join(rows(name, rounds(client, name, options.rounds))), flush=True)
        finally:
            for worker in workers:
                worker.kill()
                worker.join()


if __name__ == "__main__":
    main()
