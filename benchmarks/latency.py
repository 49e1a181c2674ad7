"""The time of a record from the logging call to the handler in the other process, in milliseconds.

Each record carries the time of its call, on the clock that all processes of a machine share (`time.perf_counter`).
Idle: one process logs every 20 ms, so each record is the first after a silence. Loaded: four processes log 2,500 records
a second each, evenly. A value is a percentile of all records of one round, without the first tenth. Ours batches under
load, by design: a record waits up to 4 ms for its batch. At full speed, latency is meaningless: it equals the backlog,
which the journal limits for us, and nothing limits for a queue.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any, Final

from .crew import Crew, Gate
from .handlers import Counter
from .pace import log_evenly
from .peers import MESH, RECIPE, Peer, others
from .rounds import Row, Scale, in_turn, missing_rows

UNIT: Final = "ms"
IDLE_MEDIAN: Final = "idle, p50"


class Arrivals(Counter):
    """Notes how long each record took."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.took: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the time before doing anything else."""
        self._note(time.perf_counter_ns(), record.getMessage())
        super().emit(record)

    def take_text(self, text: str) -> None:
        """Note the time before doing anything else."""
        self._note(time.perf_counter_ns(), text)
        super().take_text(text)

    def _note(self, now: int, message: str) -> None:
        self.took.append((now - int(message.split()[1])) / 1e6)


def measure(scale: Scale) -> list[Row]:
    """Measure all peers, idle and loaded."""
    there, absent = others()
    rows: list[Row] = []
    loads = (("idle", 1, 50.0, scale.pick(200, 50)), ("10,000 records/s", 4, 2500.0, scale.pick(6000, 2500)))
    for work, procs, each, count in loads:
        peers = [MESH, RECIPE, *there]
        runs = in_turn({peer.name: partial(_run, peer, procs, each, count) for peer in peers}, scale.few)
        for percent in (50, 99):
            for peer in peers:
                values = [_percentile(took, percent) for took in runs[peer.name]]
                rows.append(Row(f"{work}, p{percent}", peer.name, UNIT, values, () if peer is RECIPE else (RECIPE.name,)))
        rows += missing_rows(f"{work}, p50", UNIT, absent)
    return rows


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values[len(values) // 10 :])
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _run(peer: Peer, procs: int, per_second: float, count: int) -> list[float]:
    counter = Arrivals(procs * count)
    with (
        peer.listen(counter) as listening,
        Crew(work, [(peer, listening.ticket, per_second, count)] * procs, peer.method) as crew,
    ):
        crew.ready()
        crew.go()
        crew.results()
        listening.settle()
    return counter.took


def work(gate: Gate, peer: Peer, ticket: Any, per_second: float, count: int) -> None:
    """In a process: log at an even pace."""
    info = peer.join(ticket)
    gate.wait()
    text = "sent %d" if "%" in peer.template else "sent {}"
    log_evenly(lambda _: info(text, time.perf_counter_ns()), per_second, count)
