"""A flush: milliseconds from the call to its receipt, on meshes of 4, 16, 64 and 256 processes.

Idle: no process logs, and the time is a round trip to every process. Loaded: all processes together log 2,000 records a
second meanwhile. Records logged before the sentinel must be shown first, and the processes compete for the cores. The
floor is a round trip of a small message to processes over plain `multiprocessing` pipes. "LogClient.flush" uses the
same processes, which were started by multiprocessing and installed our handler. "ProcMesh.flush" uses our own mesh,
through its futures. A value is one flush, after one flush that warmed up the processes. No peer has a flush to compare
with: a queue's ``join`` means that records were taken, not that they were shown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from .crew import Crew, Gate
from .handlers import Counter
from .pace import Pacer
from .peers import MESH, TEMPLATE, Info
from .rounds import Row, Scale, tell

UNIT: Final = "ms"
PIPES: Final = "round trip over pipes"
CLIENT: Final = "LogClient.flush"
PROC_MESH: Final = "ProcMesh.flush"
RATE: Final = 2_000.0
_MANY: Final = 1 << 62


def measure(scale: Scale) -> list[Row]:
    """Measure meshes of each size, idle and loaded."""
    rows: list[Row] = []
    for procs in scale.pick((4, 16, 64, 256), (4, 16, 64)):
        tell(f"  {procs} procs")
        turns = scale.rounds * scale.pick(8, 4)
        ours = _of_client(procs, turns)
        meshes = [] if procs > scale.pick(64, 16) else _of_mesh(procs, turns)
        # By load, then by subject: compared rows are next to each other.
        rows += sorted([*ours, *meshes], key=lambda row: "idle" not in row.work)
    return rows


def work_of(procs: int, *, loaded: bool = False) -> str:
    """Return the table's name for a flush on a mesh of this size."""
    return f"{procs} procs, {f'{RATE:,.0f} records/s' if loaded else 'idle'}"


def _of_client(procs: int, turns: int) -> list[Row]:
    from meshlog_handler import LogClient

    rows: list[Row] = []
    with LogClient(Counter(_MANY)) as client, Crew(work, [(client.address,)] * procs) as crew:
        crew.ready()
        for loaded in (False, True):
            crew.ask(RATE / procs if loaded else 0.0)
            client.flush(60.0)
            pings, flushes = _alternate(lambda: crew.ask(None), lambda: client.flush(60.0), turns)
            what = work_of(procs, loaded=loaded)
            rows += [Row(what, PIPES, UNIT, pings), Row(what, CLIENT, UNIT, flushes, (PIPES,))]
        crew.go("end")
        crew.results()
    return rows


def _of_mesh(procs: int, turns: int) -> list[Row]:
    from meshlog_handler import this_host

    rows: list[Row] = []
    mesh = this_host().spawn_procs(per_host={"gpus": procs}, handlers=[Counter(_MANY)])
    try:
        for loaded in (False, True):
            mesh.call(pace, RATE / procs if loaded else 0.0).get(60.0)
            mesh.flush().get(60.0)
            _, flushes = _alternate(lambda: None, lambda: mesh.flush().get(60.0), turns)
            rows.append(Row(work_of(procs, loaded=loaded), PROC_MESH, UNIT, flushes, (PIPES,)))
    finally:
        mesh.stop().get(60.0)
    return rows


def _alternate(ping: Callable[[], object], flush: Callable[[], object], turns: int) -> tuple[list[float], list[float]]:
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        time.sleep(0.05)
        for times, call in zip(took, (ping, flush), strict=True):
            began = time.perf_counter()
            call()
            times.append((time.perf_counter() - began) * 1e3)
    return took


def work(gate: Gate, address: str) -> None:
    """In a process: log at the requested rate, and answer."""
    info = MESH.join(address)
    while (order := gate.wait()) != "end":
        if order is not None:
            _pace(info, order)
    _pace(info, 0.0)


def pace(per_second: float) -> None:
    """In a proc of a mesh: log at this rate from now on."""
    _pace(logging.getLogger("benchmark").info, per_second)


_pacer: Pacer | None = None


def _pace(info: Info, per_second: float) -> None:
    global _pacer
    if _pacer is not None:
        _pacer.stop()
    _pacer = Pacer(lambda number: info(TEMPLATE, number, 0.5), per_second) if per_second else None
