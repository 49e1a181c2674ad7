"""ResultLoader: the thread that unpickles the results of calls."""

from __future__ import annotations

import contextlib
import queue
import threading

from ..errors import ClosedError
from ..system.waits import capped
from .pending_call import PendingCall


class ResultLoader:
    """A thread that settles calls. Unpickling a result may run any code for any time, so the supervisor does not do it."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[PendingCall | None] = queue.SimpleQueue()  # None stops the thread
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def settle(self, call: PendingCall) -> None:
        """Queue `call` to be settled. Any thread may call it."""
        self._queue.put(call)

    def stop(self) -> None:
        """End the thread after all queued calls are settled."""
        self._queue.put(None)

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the thread to end; then fail all calls that are still queued."""
        if self._thread.ident is None or threading.current_thread() is self._thread:
            return
        self._thread.join(capped(timeout))
        with contextlib.suppress(queue.Empty):  # the queue is empty: no call is left to fail
            while self._thread.is_alive():
                call = self._queue.get_nowait()
                if call is not None:
                    call.refuse(ClosedError(f"the mesh was stopped before the result of {call.what} was loaded."))

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            call.settle()
