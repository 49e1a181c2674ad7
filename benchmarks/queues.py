"""Records through an ordinary queue: a `LogClient` that reads it, beside the standard library's `QueueListener`.

The workers are the same in both cases, with a `QueueHandler`: four processes and a `multiprocessing.Queue`, four threads and a
`queue.Queue`. The clock runs from the word "go" to the last record in a handler that counts them. "Processor time" is that of
all threads of all processes. The queue itself costs most of it: a `MeshHandler` needs none (see `rate`).
"""

from __future__ import annotations

import logging.handlers
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from . import rate
from .crew import context
from .handlers import Counter, bare_logger
from .peers import RECIPE, TEMPLATE, Listening, Recipe
from .rounds import Row, Scale, in_turn

PROCESSES: Final = 4
UNIT = "records/s"
CPU = "µs a record"


@dataclass(frozen=True)
class Client(Recipe):
    """Ours in place of the `QueueListener`."""

    name: str = "QueueHandler, Queue, LogClient"

    @contextmanager
    def listen(self, counter: Counter) -> Iterator[Listening]:
        """Start a client."""
        shared = context(self.method).Queue()
        try:
            with _client(shared, counter):
                yield Listening(shared, counter.wait)
        finally:
            shared.close()


CLIENT: Final = Client()


def measure(scale: Scale) -> list[Row]:
    """Measure both with processes, and both with threads."""
    work = rate.Work(PROCESSES, scale.pick(20_000, 8_000))
    runs = in_turn({peer.name: partial(rate.run, peer, work) for peer in (CLIENT, RECIPE)}, scale.rounds)
    rows = _rows(str(work), {name: [(cost.rate, cost.cpu) for cost in costs] for name, costs in runs.items()})
    threads = f"{PROCESSES} threads x {work.records:,} records"
    subjects = {CLIENT.name: partial(_run_threads, _client, work), RECIPE.name: partial(_run_threads, _listener, work)}
    return rows + _rows(threads, in_turn(subjects, scale.rounds))


def _rows(work: str, costs: dict[str, list[tuple[float, float]]]) -> list[Row]:
    bases = {CLIENT.name: (RECIPE.name,), RECIPE.name: ()}
    return [
        Row(what, name, unit, [cost[place] for cost in costs[name]], bases[name])
        for place, (what, unit) in enumerate(((work, UNIT), (rate.cpu_of(work), CPU)))
        for name in bases
    ]


@contextmanager
def _client(source: Any, counter: Counter) -> Iterator[None]:
    from meshlog_handler import LogClient

    with LogClient(counter, queue=source):
        yield


@contextmanager
def _listener(source: Any, counter: Counter) -> Iterator[None]:
    listener = logging.handlers.QueueListener(source, counter, respect_handler_level=True)
    listener.start()
    try:
        yield
    finally:
        listener.stop()


def _run_threads(reading: Callable[..., Any], work: rate.Work) -> tuple[float, float]:
    """Return records per second, and microseconds of processor time per record."""
    total = work.procs * work.records
    counter = Counter(total)
    source: queue.Queue[Any] = queue.Queue()
    info = bare_logger(logging.handlers.QueueHandler(source)).info
    ready = threading.Barrier(work.procs + 1)

    def log() -> None:
        ready.wait()
        for number in range(work.records):
            info(TEMPLATE, number, 0.5)

    threads = [threading.Thread(target=log) for _ in range(work.procs)]
    with reading(source, counter):
        for thread in threads:
            thread.start()
        spent, began = time.process_time(), time.perf_counter()
        ready.wait()
        counter.wait()
        seconds, spent = time.perf_counter() - began, time.process_time() - spent
        for thread in threads:
            thread.join()
    return total / seconds, spent / total * 1e6
