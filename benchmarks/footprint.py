"""The cost of an idle installation: 16 processes that logged once, and have been silent since.

Processor time and wake-ups (voluntary context switches) are those of all threads of the 16 processes and of the process that
shows, over some seconds, from /proc. "Without logging" is the same processes waiting at the same gate. Memory is the
proportional share of each of the 16 (PSS), which divides shared pages among their users, so that what all have in common
hardly counts. Our journal is memory, too, from its first byte on: MESHLOG_JOURNAL_SIZE sets how much. The client's
memory is the growth of its process after 64 ranks had joined and logged; a few earlier ranks made it load what it needs.
Linux only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, NamedTuple

from .crew import FORKSERVER, Crew, Gate
from .handlers import Counter
from .peers import MESH, RECIPE, TEMPLATE, Listening, Peer, others
from .rounds import Row, Scale, in_turn, missing_rows, tell
from .server import own_memory, server

BARE: Final = "without logging"
PROCS: Final = 16
WAKEUPS: Final = f"{PROCS} idle procs, wake-ups"
_RANKS: Final = 64


class Cost(NamedTuple):
    """Milliseconds of processor time a second, wake-ups a second, MB a process."""

    cpu: float
    wakeups: float
    memory: float


def measure(scale: Scale) -> list[Row]:
    """Measure all peers, and our client's memory."""
    if not os.path.exists("/proc/self/task"):
        return [Row(f"{PROCS} idle procs", "all", "", [], (), "missing: there is no /proc here")]
    there, absent = others()
    peers: dict[str, Peer | None] = {BARE: None, **{peer.name: peer for peer in (MESH, RECIPE, *there)}}
    seconds = scale.pick(5.0, 1.0)
    runs = in_turn({name: partial(_run, peer, seconds) for name, peer in peers.items()}, scale.few)
    rows = []
    for field, (what, unit) in enumerate((("processor time", "ms/s"), ("wake-ups", "a second"), ("memory", "MB a proc"))):
        work = f"{PROCS} idle procs, {what}"
        rows += [
            Row(work, name, unit, [cost[field] for cost in costs], () if name == BARE else (BARE,))
            for name, costs in runs.items()
        ]
        rows += missing_rows(work, unit, absent)
    tell("  the client's memory")
    rows.append(Row(f"client, {_RANKS} ranks, memory", MESH.name, "kB a rank", [_client_memory() for _ in range(scale.few)]))
    return rows


def _run(peer: Peer | None, seconds: float) -> Cost:
    listening: Any = nullcontext(Listening(None, lambda: None)) if peer is None else peer.listen(Counter(PROCS))
    method = FORKSERVER if peer is None else peer.method
    with listening as there, Crew(log_once, [(peer, there.ticket)] * PROCS, method) as crew:
        crew.ready()
        crew.ask()
        there.settle()
        time.sleep(0.5)  # work of the start is over by now
        pids = [os.getpid(), *crew.pids]
        before = _spent(pids)
        time.sleep(seconds)
        after = _spent(pids)
        memory = sum(map(own_memory, crew.pids)) / PROCS / 1e6
        crew.go()
        crew.results()
    return Cost(1e3 * (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds, memory)


def _client_memory() -> float:
    """Return the kilobytes by which a client grows with each rank."""
    with server() as client, Crew(log_once, [(MESH, client.address)] * 4) as first:
        first.ready()
        first.ask()
        client.wait(4)
        before = client.state().memory
        with Crew(log_once, [(MESH, client.address)] * _RANKS) as crew:
            crew.ready()
            crew.ask()
            client.wait(4 + _RANKS)
            after = client.state().memory
            crew.go()
            crew.results()
        first.go()
        first.results()
    return (after - before) / _RANKS / 1e3


def log_once(gate: Gate, peer: Peer | None, ticket: Any) -> None:
    """In a process: join, log once, then stay silent."""
    info = peer.join(ticket) if peer is not None else logging.getLogger("nobody").info
    gate.wait()
    info(peer.template if peer is not None else TEMPLATE, 0, 0.5)
    gate.wait()


def _spent(pids: Iterable[int]) -> tuple[float, int]:
    """Return the seconds of processor time, and the wake-ups, of all threads of these processes so far."""
    seconds, wakeups = 0.0, 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            # A thread may end between the two reads: it is then not counted.
            with contextlib.suppress(FileNotFoundError):
                with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
                    seconds += int(stat.read().split()[0]) / 1e9
                with open(f"/proc/{pid}/task/{task}/status") as status:
                    wakeups += next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt"))
    return seconds, wakeups
