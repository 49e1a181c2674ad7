"""Settler: the thread on which the results of calls are unpickled, apart from the one that everybody depends on."""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass

from ..errors import ClosedError
from ..system.waits import capped
from .pending_call import PendingCall


@dataclass(frozen=True)
class _Load:
    """Asks the settler for one call to be settled; None to end."""

    call: PendingCall | None


class ResultLoader:
    """A thread that gives callers their results: to unpickle them may run any code, for any time."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[_Load] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def settle(self, call: PendingCall) -> None:
        """Let the thread settle `call`. Any thread."""
        self._queue.put(_Load(call))

    def stop(self) -> None:
        """End when all is settled."""
        self._queue.put(_Load(None))

    def join(self, timeout: float) -> None:
        """Wait for the end, up to `timeout` seconds. What it is still held up from then on, nobody gets."""
        if self._thread.ident is None or threading.current_thread() is self._thread:
            return
        self._thread.join(capped(timeout))
        with contextlib.suppress(queue.Empty):  # until it is
            while self._thread.is_alive():
                call = self._queue.get_nowait().call
                if call is not None:
                    call.refuse(ClosedError(f"the mesh was stopped before the result of {call.what} could be read."))

    def _run(self) -> None:
        while (call := self._queue.get().call) is not None:
            call.settle()
