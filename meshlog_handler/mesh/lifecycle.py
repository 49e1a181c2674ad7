"""MeshLifecycle: starts and stops the procs and the logging of a mesh.

Start: client -> procs -> bootstrap -> mode. Stop: flush -> procs -> their last records -> client.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from ..errors import ClosedError
from ..system.diagnostics import diagnose
from ..system.futures import Awaited, finished
from ..system.waits import deadline_after, monotonic
from .engine import Coords
from .future import MeshFuture
from .identity import ProcIdentity
from .manager import LoggingManager
from .process_set import ProcessSet
from .shape import Shape

if TYPE_CHECKING:
    from ..output.named_handlers import ShownBy

_EXIT_SEC: Final = 10.0
_FAILED_EXIT_SEC: Final = 2.0
_LEAST_SEC: Final = 1.0


class MeshLifecycle:
    """The state that a mesh shares with its slices, and the `Engine` of its logging. Any thread may call any method.

    Nothing here refers to a `ProcMesh`, so that collecting the last one can call `abandon`.
    """

    def __init__(
        self,
        shape: Shape,
        name: str,
        *,
        start_method: str | None,
        stream_to_client: bool,
        handlers: Iterable[ShownBy] | None,
        bootstrap: Callable[[], object] | None,
        log_dir: str | os.PathLike[str] | None,
        never: Sequence[str] = (),
        hide: Sequence[str] = (),
    ) -> None:
        self.token = f"{name}-{os.urandom(6).hex()}"
        self.manager = LoggingManager(handlers, log_dir, hide, never)
        size = len(shape.ranks)
        self.procs = ProcessSet(
            [ProcIdentity(rank, rank, size, size, position, self.token) for rank, position in shape.coords.items()],
            name=name,
            start_method=start_method,
            on_exit=self.manager.report_exit,
        )
        self.stopped = False
        self._pid = os.getpid()
        self.coords: Coords = shape.coords
        self._stream_to_client = stream_to_client
        self._bootstrap = bootstrap
        self._started: Future[dict[int, int]] = Awaited.begun()
        self._initialized: Future[None] = Awaited.begun()
        self.initialized = MeshFuture(self._initialized, "the start of the mesh")
        self._called = False
        self._stopping = threading.Lock()

    # -- start -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start everything on a new thread, except that the calling thread forks."""
        # A forked proc is a copy of this process at that time. The calling thread forks because otherwise it could be in the
        # middle of an import, which the proc could never complete, or of a `print`.
        global _at_exit
        if not _at_exit:
            atexit.register(_stop_all)
            _at_exit = True
        _living.add(self)
        failure: BaseException | None = None
        try:
            if self.procs.forks:
                self.procs.launch(self.manager.prepare(self.token, self.coords))
        except BaseException as error:
            failure = error
            if not isinstance(error, Exception):
                raise
        finally:
            threading.Thread(target=self._begin, args=(failure,), name="meshlog-init", daemon=True).start()

    def _begin(self, failure: BaseException | None) -> None:
        try:
            if failure is not None:
                raise failure
            self.manager.init(self, self._stream_to_client)
        except BaseException as error:
            self.procs.stop(_LEAST_SEC, because=error)
            self._end_logging(_LEAST_SEC)
            _living.discard(self)
            if not self._started.done():
                self._started.set_exception(error)
            self._initialized.set_exception(error)
            self._mark_reported()
        else:
            self._initialized.set_result(None)
            self.procs.release()

    def join(self, address: str) -> None:
        """Start the procs. Each joins before it does anything else."""
        self.procs.start(address, self._bootstrap, hold=True)
        self._started.set_result(self.procs.pids)

    def _mark_reported(self) -> None:
        """Warn about a failed start only if no caller received the error."""
        if self._called and self._initialized.done():
            self.initialized.exception()

    def pids(self) -> dict[int, int]:
        """Wait until all procs have started; return their pids by rank."""
        if self._started.exception() is not None:
            self.initialized.get()
        return dict(self._started.result())

    def call(
        self, ranks: Iterable[int], fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> MeshFuture[list[Any]]:
        """See `ProcessSet.call`. Before the mesh is initialised, calls are queued."""
        future = self.procs.call(ranks, fn, args, kwargs)
        self._called = True
        self._mark_reported()
        return future

    def check_open(self, what: str) -> None:
        """Raise `ClosedError` after a stop, and in a forked child."""
        if self._pid != os.getpid():
            raise ClosedError(f"{what}: this mesh belongs to the parent of this forked process. Use it there.")
        if self.stopped:
            raise ClosedError(f"{what}: the mesh was stopped. Spawn another.")

    # -- stop ------------------------------------------------------------------------------------------------------

    def stop(self, timeout: float) -> None:
        """Flush, stop the procs, show their last records, and stop the client. A second call does nothing.

        Takes at most `timeout` seconds and 10 more. Does nothing in a forked child.
        """
        if self._pid != os.getpid():
            return
        deadline = deadline_after(timeout)

        def left() -> float:
            return max(_LEAST_SEC, deadline - monotonic())

        self.stopped = True
        with self._stopping:
            if self not in _living:
                return
            failed = None
            # A start that takes longer is not waited for: it fails when the procs are stopped below.
            if finished(self._initialized, left()):
                failed = self._initialized.exception()
                if failed is None:
                    # Half of the time, so that an unresponsive rank leaves enough for the other ranks to exit cleanly.
                    self.manager.flush_before_stop(max(_LEAST_SEC, timeout / 2))
            if failed is None:
                self.procs.stop(left())
                self._end_logging(left())
            _living.discard(self)

    def _end_logging(self, timeout: float) -> None:
        try:
            self.manager.stop(timeout)
        except Exception as error:
            diagnose(f"the logging of a mesh did not stop cleanly: {type(error).__name__}: {error}")

    def abandon(self) -> None:
        """Stop in the background. Takes no lock and starts no thread here, because a finalizer may call it at any time."""
        if self._pid == os.getpid():
            self.procs.post(self._stop_in_background)

    def _stop_in_background(self) -> None:
        threading.Thread(target=self.stop, args=(_EXIT_SEC,), name="meshlog-stop", daemon=True).start()


_living: set[MeshLifecycle] = set()
_at_exit = False


def _stop_all() -> None:
    """Stop the remaining meshes at exit, with a shorter timeout if the program ended by an exception or by Ctrl-C."""
    failed = getattr(sys, "last_type", None) is not None
    deadline = monotonic() + (_FAILED_EXIT_SEC if failed else _EXIT_SEC)
    try:
        for mesh in tuple(_living):
            mesh.stop(max(_LEAST_SEC, deadline - monotonic()))
    except KeyboardInterrupt:  # a second Ctrl-C: stop at once, without another traceback
        for mesh in tuple(_living):
            mesh.procs.stop(0.0)
