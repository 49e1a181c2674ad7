"""A client in a separate process, so that its memory and processor time can be measured alone."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .crew import Crew, Gate
from .handlers import Counter


@dataclass(frozen=True)
class State:
    """The state of a client's process at one moment.

    Attributes
    ----------
    count : int
        Lines reported to the handler.
    shown : int
        Records the handler received.
    cpu : float
        Seconds of processor time of the client's thread.
    memory : int
        Resident bytes.
    """

    count: int
    shown: int
    cpu: float
    memory: int


class Server:
    """The benchmark's side of a client in another process."""

    def __init__(self, crew: Crew, address: str) -> None:
        self._crew = crew
        self.address = address
        self.pid = crew.pids[0]

    def state(self) -> State:
        """Ask for the client's state."""
        state: State = self._crew.ask("state")[0]
        return state

    def wait(self, total: int) -> None:
        """Wait until the handler has received this many records since the start."""
        self._crew.ask(total)

    def flush(self) -> float:
        """Have the client flush; return the seconds until the receipt arrived."""
        elapsed: float = self._crew.ask("flush")[0]
        return elapsed

    def insight(self) -> float:
        """Have the client find what its ranks do; return the seconds."""
        elapsed: float = self._crew.ask("insight")[0]
        return elapsed


@contextmanager
def server(window: float | None = None) -> Iterator[Server]:
    """Run a client with a handler that only counts."""
    with Crew(_serve, [(window,)]) as crew:
        yield Server(crew, crew.ready()[0])
        crew.go("end")
        crew.results()


def _serve(gate: Gate, window: float | None) -> None:
    from meshlog_handler import LogClient

    more_descriptors()
    many_connections()
    counter = Counter(1 << 62)
    with LogClient(counter, aggregate_window_sec=window) as client:
        answer: Any = client.address
        while (order := gate.wait(answer)) != "end":
            if order == "flush":
                began = time.perf_counter()
                client.flush(120.0)
                answer = time.perf_counter() - began
            elif order == "insight":
                began = time.perf_counter()
                client.insight()
                answer = time.perf_counter() - began
            elif order == "state":
                answer = State(counter.count, counter.shown, client.on_thread(time.thread_time).result(), resident(os.getpid()))
            else:
                counter.expect(order)
                counter.wait()
                answer = None


def resident(pid: int) -> int:
    """Return the resident bytes of a process (0 if there is no /proc)."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def own_memory(pid: int) -> int:
    """Return the bytes that would be free without this process: its private memory, and its share of the rest."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    except FileNotFoundError:
        return 0


def rise(samples: list[tuple[float, int]]) -> float:
    """Return the growth of the samples' second half in bytes a minute, by least squares."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return 0.0
    middle = sum(at for at, _ in half) / len(half)
    mean = sum(used for _, used in half) / len(half)
    spread = sum((at - middle) ** 2 for at, _ in half)
    return 60.0 * sum((at - middle) * (used - mean) for at, used in half) / spread


def more_descriptors() -> int:
    """Raise this process's limit on open files as far as the system allows; return the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def many_connections() -> None:
    """Let this process's client accept any number of connections of one process, which simulates many ranks."""
    from meshlog_handler.client.peers import reactor

    vars(reactor)["MAX_CONNECTED"] = 1 << 20
