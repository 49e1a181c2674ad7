"""Processes that prepare, begin together, and report their results. Any start method; every wait has a deadline.

A fork server starts them, clean and within milliseconds, unless the subject works only in a forked process.
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
"""Seconds after which a process that does not answer has failed."""

FORKSERVER: Final = "forkserver"
_PRELOAD: Final = ["benchmarks.rate", "multiprocessing.queues", "meshlog_handler.installation"]


def context(method: str) -> Any:
    """Return the multiprocessing context of a start method."""
    chosen: Any = multiprocessing.get_context(method)
    if method == FORKSERVER:
        chosen.set_forkserver_preload(_PRELOAD)
    return chosen


class Gate:
    """The barrier, in a process: it waits there for the others."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def wait(self, told: Any = None) -> Any:
        """Report that this process is ready, with `told`; wait for the signal to continue, and return what it carries."""
        self._pipe.send(("ready", told))
        return self._pipe.recv()


class Crew:
    """Processes of one kind.

    Parameters
    ----------
    target : callable
        Called as ``target(gate, *args)`` in each process; its return value is the result. It must be importable.
    calls : sequence of tuple
        The arguments for each process.
    method : str
        The start method.
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
        """Wait until all processes are at the gate; return what they report there."""
        return self._gather("ready")

    def go(self, order: Any = True) -> float:
        """Let all processes continue; return the time of the signal (`time.perf_counter`)."""
        began = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(order)
        return began

    def results(self) -> list[Any]:
        """Wait until all processes are done; return their results. They stay alive until the context ends."""
        return self._gather("done")

    def ask(self, order: Any = True) -> list[Any]:
        """Let all processes continue, and wait until they are at the gate again."""
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
            with contextlib.suppress(OSError):  # it has already ended
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
        return  # the benchmark itself has ended
    except Exception:
        pipe.send(("failed", traceback.format_exc()))
