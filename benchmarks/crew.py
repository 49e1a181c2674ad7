"""Processes that get ready, begin together, and say how it went. Any start method; every wait has a deadline.

They come from a fork server, clean and within milliseconds, unless the subject can only live in a forked process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

DEADLINE: Final = 180.0
"""Seconds after which a process that does not answer is a failure."""

FORKSERVER: Final = "forkserver"
_PRELOAD: Final = ["benchmarks.rate", "multiprocessing.queues", "meshlog_handler.installation"]


def context(method: str) -> Any:
    """Return the multiprocessing context of a start method."""
    chosen: Any = multiprocessing.get_context(method)
    if method == FORKSERVER:
        chosen.set_forkserver_preload(_PRELOAD)
    return chosen


class Gate:
    """A process's side: where it waits for the others."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def wait(self, told: Any = None) -> Any:
        """Say that this process is ready, and `told`; return what the other side sends when it is time to go on."""
        self._pipe.send(("ready", told))
        return self._pipe.recv()


class Crew:
    """Processes of one kind.

    Parameters
    ----------
    target : callable
        Called as ``target(gate, *args)`` in each; what it returns is its result. Importable.
    calls : sequence of tuple
        The arguments for each process.
    method : str
        How they are started.
    """

    def __init__(self, target: Callable[..., Any], calls: Sequence[tuple[Any, ...]], method: str = FORKSERVER) -> None:
        start = context(method)
        self._pipes: list[Any] = []
        self._procs: list[Any] = []
        for args in calls:
            here, there = start.Pipe()
            proc = start.Process(target=_work, args=(there, target, args), daemon=True)
            self._pipes.append(here)
            self._procs.append(proc)
            proc.start()
            there.close()

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [proc.pid for proc in self._procs]

    def ready(self) -> list[Any]:
        """Wait until all are at the gate; return what they say there."""
        return self._gather("ready")

    def go(self, order: Any = True) -> float:
        """Let all go on; return when that was (`time.perf_counter`)."""
        began = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(order)
        return began

    def results(self) -> list[Any]:
        """Wait until all are done; return their results. They stay alive until the crew is left."""
        return self._gather("done")

    def ask(self, order: Any = True) -> list[Any]:
        """Let all go on, and wait until they are at the gate again."""
        self.go(order)
        return self.ready()

    def _gather(self, wanted: str) -> list[Any]:
        answers = []
        deadline = time.monotonic() + DEADLINE
        for pipe, proc in zip(self._pipes, self._procs, strict=True):
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"process {proc.pid} was not {wanted} within {DEADLINE:g} s")
            try:
                kind, answer = pipe.recv()
            except EOFError:
                raise RuntimeError(f"process {proc.pid} ended before it was {wanted}") from None
            if kind != wanted:
                raise RuntimeError(f"process {proc.pid} was {kind} where it should be {wanted}:\n{answer}")
            answers.append(answer)
        return answers

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # it has gone by itself
                pipe.send(None)
        deadline = time.monotonic() + 10.0
        for proc in self._procs:
            proc.join(max(0.1, deadline - time.monotonic()) if error is None else 0.1)
            if proc.is_alive():
                proc.kill()
                proc.join()
            proc.close()
        for pipe in self._pipes:
            pipe.close()


def _work(pipe: Any, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        pipe.send(("done", target(Gate(pipe), *args)))
        pipe.recv()
    except (EOFError, ConnectionError):
        return  # the benchmark itself has gone
    except Exception:
        pipe.send(("failed", traceback.format_exc()))
