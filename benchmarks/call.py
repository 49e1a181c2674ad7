"""The cost of a logging call for the process that makes it: ``log.info("step %d loss=%.3f", i, 0.5)``.

One process, and as many at once as there are cores, swap the handler of one logger between short slices of calls. A
value is the mean of one slice, in microseconds of wall time. Between slices, all remaining background work is finished,
so that it is not charged to the next slice. The work that MeshHandler's forwarder and the queue's feeder do during
their own slice is charged. The client, and the listener of the queue, run in another process. With as many processes as
cores, these compete for the cores, as they will in your program. The least is the cost of the code on a quiet core.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from .crew import Crew, Gate
from .handlers import LOGGER, Counter, Nop, bare_logger
from .peers import MESH, RECIPE, TEMPLATE
from .rounds import Row, Scale

NOTHING: Final = "handler that does nothing"
NULL: Final = "StreamHandler, null device"
UNIT: Final = "µs"
_CALLS: Final = 1000
_NEVER: Final = 1 << 62


def measure(scale: Scale) -> list[Row]:
    """Measure on one process, and on all cores."""
    cores = os.cpu_count() or 1
    return [row for procs in sorted({1, cores}) for row in _on(procs, scale)]


def _on(procs: int, scale: Scale) -> list[Row]:
    slices = scale.rounds * scale.pick(24, 8)
    with (
        tempfile.TemporaryDirectory(prefix="meshlog-bench-") as directory,
        MESH.listen(Counter(_NEVER)) as mesh,
        RECIPE.listen(Counter(_NEVER)) as recipe,
        Crew(_work, [(mesh.ticket, recipe.ticket, slices, f"{directory}/{index}.log") for index in range(procs)]) as crew,
    ):
        crew.ready()
        crew.go()
        answers: list[dict[str, list[float]]] = crew.results()
    work = f"{procs} proc{'s' if procs > 1 else ''}"
    values = {subject: [value for answer in answers for value in answer[subject]] for subject in answers[0]}
    return [
        Row(work, subject, UNIT, costs, _bases(subject), _least(costs, values[NOTHING])) for subject, costs in values.items()
    ]


def _bases(subject: str) -> tuple[str, ...]:
    if subject == NOTHING:
        return ()
    return (NOTHING, NULL) if subject == MESH.name else (NOTHING,)


def _least(costs: list[float], nothing: list[float]) -> str:
    return "" if costs is nothing else f"least to least {min(costs) / min(nothing):.2f} times"


def _work(gate: Gate, address: str, shared: Any, slices: int, path: str) -> dict[str, list[float]]:
    MESH.join(address)
    simple: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handlers: dict[str, logging.Handler] = {
        NOTHING: Nop(),
        MESH.name: logging.getLogger(LOGGER).handlers[0],
        NULL: logging.StreamHandler(Path(os.devnull).open("w")),  # noqa: SIM115 - open until the end
        "FileHandler": logging.FileHandler(path),
        "QueueHandler, SimpleQueue, nobody reads": logging.handlers.QueueHandler(simple),
        RECIPE.name: logging.handlers.QueueHandler(shared),
    }
    costs: dict[str, list[float]] = {subject: [] for subject in handlers}
    names = list(handlers)
    gate.wait()
    for number in range(-1, slices):
        first = number % len(names)
        for subject in names[first:] + names[:first]:
            seconds = _slice(bare_logger(handlers[subject]), simple)
            if number >= 0:  # the first one warms up
                costs[subject].append(seconds / _CALLS * 1e6)
    bare_logger(Nop())
    for handler in handlers.values():
        handler.close()
    return costs


def _slice(logger: logging.Logger, simple: queue.SimpleQueue[Any]) -> float:
    info = logger.info
    began = time.perf_counter()
    for number in range(_CALLS):
        info(TEMPLATE, number, 0.5)
    seconds = time.perf_counter() - began
    while not simple.empty():
        simple.get()
    # Finishing deferred work takes about as long as deferring it did; then forwarder and feeder are asleep.
    time.sleep(0.01 + seconds)
    return seconds
