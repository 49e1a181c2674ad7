"""LoggingManager: the logging of one mesh of processes, for implementations of a mesh.

::

    manager = LoggingManager(handlers, log_dir)
    address = manager.prepare(token, coords)   # only if procs need the address before they start
    client = manager.init(engine)              # see `Engine`
    manager.stop(timeout)                      # before they are stopped
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence

from .. import settings
from ..client.flushes.receipt import FlushReceipt
from ..errors import ClosedError, FlushTimeout
from ..notebook.cells import attach_if_notebook, current_cell, detach
from ..output.console import set_hint
from ..output.named_handlers import ShownBy, check_handlers
from ..system.diagnostics import diagnose
from ..worker.warning_filters import warnings_command
from .control import LoggingMeshClient
from .engine import Coords, Engine

_FAILED_SEC = 1.0
_HINT = (
    f"meshlog: similar lines of {settings.DEFAULT_WINDOW_SEC:g} s become one; aggregate_window_sec=None (of logging_option or "
    f"set_mode) shows each"
)


class LoggingManager:
    """Manages the logging of one mesh from its first proc to its end. Every method blocks; any thread may call it.

    Parameters
    ----------
    handlers : iterable of logging.Handler or None
        The handlers that show the records in this process; None is the console.
    log_dir : str or None
        Directory for a complete file per rank and stream.
    hide, never : sequence of str
        Regular expressions: lines that are not shown, such as markers that an engine prints, and lines that are never grouped.
    """

    def __init__(
        self,
        handlers: Iterable[ShownBy] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        hide: Sequence[str] = (),
        never: Sequence[str] = (),
    ) -> None:
        self._handlers = None if handlers is None else check_handlers(handlers)
        self._log_dir = settings.check_directory(log_dir)  # absolute: the working directory may change before `prepare`
        self._hide, self._never = settings.patterns(settings.HIDE, hide, {}), settings.patterns(settings.NEVER, never, {})
        self._client: LoggingMeshClient | None = None
        # Taken from the caller now: they may differ when the client starts.
        self._cell = current_cell()
        self._warnings = warnings_command()

    @property
    def client(self) -> LoggingMeshClient:
        """The `LoggingMeshClient` that controls the logging.

        Raises
        ------
        ClosedError
            Before `prepare`.
        """
        if self._client is None:
            raise ClosedError("the logging of the mesh is not prepared. Call prepare() before the procs start.")
        return self._client

    def init(self, engine: Engine, stream_to_client: bool = True) -> LoggingMeshClient:
        """Spawn the logging of a mesh, and set its first mode: INFO, and a window of 3 seconds when streaming.

        Calls `prepare` unless that is done. A failure stops the client.
        """
        stream_to_client = settings.check_flag(stream_to_client, "stream_to_client")
        if self._client is None:
            self.prepare(engine.token, engine.coords)
        try:
            client = LoggingMeshClient.spawn(engine, self.client)
            client.set_mode(stream_to_client, settings.DEFAULT_WINDOW_SEC if stream_to_client else None, logging.INFO)
            set_hint(client.client.console, _HINT if stream_to_client else "")
            attach_if_notebook(client)
        except BaseException:
            self.stop(_FAILED_SEC)
            raise
        return client

    def prepare(self, mesh: str, coords: Coords | None) -> str:
        """Start the client; return the address at which the procs of `mesh` join."""
        self._client = LoggingMeshClient.start(mesh, coords, self._handlers, self._log_dir, self._hide, self._never)
        self._client.client.set_default(mesh, self._warnings)
        # Procs log at INFO from their first record on; captured lines do not wait for `init`.
        self._client.set_level(logging.INFO)
        attach_if_notebook(self._client, self._cell)
        return self._client.client.address

    def logging_option(
        self,
        stream_to_client: bool,
        aggregate_window_sec: float | None,
        level: int | str,
        ranks: Iterable[int] | int | None = None,
    ) -> None:
        """Change the mode (see `LoggingMeshClient.set_mode`). In a notebook, also flush at the end of each cell."""
        self.client.set_mode(stream_to_client, aggregate_window_sec, level, ranks)
        attach_if_notebook(self.client)

    def flush(self, timeout: float | None = 10.0, ranks: Iterable[int] | int | None = None) -> FlushReceipt:
        """Wait until everything the ranks logged so far has been shown (see `LoggingMeshClient.flush`)."""
        return self.client.flush(timeout, ranks)

    def report_exit(self, rank: int, pid: int, exitcode: int | None) -> None:
        """Report the exit of a proc to the client, for its exit report."""
        if self._client is not None and exitcode is not None:
            self._client.client.report_exit(self._client.mesh, rank, exitcode)

    def flush_before_stop(self, timeout: float) -> None:
        """Flush while the procs still run; report on stderr if that fails."""
        try:
            self.client.flush(timeout)
        except FlushTimeout as incomplete:
            diagnose(f"the last flush before the mesh is torn down is incomplete: {incomplete}")
        except ClosedError as closed:
            if not self.client.drained:
                diagnose(f"the mesh is torn down without a last flush: {closed}")

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the client. If the procs have ended, their last records are read and shown."""
        if self._client is not None:
            with contextlib.suppress(ClosedError):  # its finalizer has already stopped it
                self._client.drain_and_stop(timeout)
            detach(self._client)
