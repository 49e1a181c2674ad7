"""LoggerRuntime: the thread in every worker that carries out the client's commands.

::

    LoggingMeshClient -> socket -> LoggerRuntime -> levels, dictConfig, flush sentinels
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Final

from ..errors import MeshlogError, ProtocolError
from ..protocol.messages import (
    Answer,
    Command,
    Commit,
    Completed,
    Flush,
    KeepWaiting,
    Kept,
    LogWarnings,
    Message,
    Prepare,
    Release,
    Rollback,
    StacksAnswer,
    TakeStacks,
    decode,
)
from ..system.diagnostics import diagnose
from ..system.waits import check_timeout, ended
from ..transport.channel import Link
from .completions import CompletionRequests
from .config_transaction import ConfigTransaction
from .record_stream import RecordStream, internal_threads, transport_threads
from .stacks import thread_stacks
from .timed_levels import Saved, TimedLevels, level_of, leveled
from .warning_filters import log_warnings

_MAX_REASON: Final = 4000


class LoggerRuntime:
    """Carries out commands, one at a time, in the order in which they arrive. While idle, it sleeps in the kernel.

    Parameters
    ----------
    link : Link
        The connection to the client.
    stream : RecordStream or None
        The stream that takes the flush sentinels. Without one (forwarding is off), flushes are acknowledged at once.
    find_next : Callable[[], Link or None]
        Called on this thread when the client is gone: returns the connection to another one, if there is one.
    on_gone : Callable[[], None]
        Called on this thread when there is no other one.
    on_release : Callable[[], None]
        Called on this thread when the client is about to stop.
    warnings : bool
        Whether this process logs its warnings by the client's filters. If False, commands to do so have no effect.
    levels : TimedLevels or None
        In a forked child, the levels that commands have changed in its parent.
    """

    def __init__(
        self,
        link: Link,
        stream: RecordStream | None,
        *,
        find_next: Callable[[], Link | None],
        on_gone: Callable[[], None],
        on_release: Callable[[], None],
        warnings: bool = False,
        levels: TimedLevels | None = None,
    ) -> None:
        self._link = link
        self._stream = stream
        self._find_next = find_next
        self._on_gone = on_gone
        self._on_release = on_release
        self._warnings = warnings
        self._prepared: dict[int, tuple[ConfigTransaction, Saved]] = {}
        self.levels = levels or TimedLevels()
        self.completions = CompletionRequests()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="meshlog-runtime", daemon=True)
        self._thread.start()

    @property
    def native_id(self) -> int:
        """The kernel's number of the thread; 0 before `start`."""
        return 0 if self._thread is None else self._thread.native_id or 0

    def wait_ended(self, timeout: float | None) -> bool:
        """Wait until the thread has ended after the connection closed; return False if it runs or is the current thread."""
        seconds = check_timeout(timeout)
        if self._thread is threading.current_thread():
            return False
        return self._thread is None or ended(self._thread, seconds)

    def apply_defaults(self, defaults: Iterable[bytes]) -> None:
        """Carry out the default commands for late joiners, and report failures. Call it before `start`."""
        for encoded in defaults:
            answer = self.carry_out(encoded, BaseException)  # SystemExit, too: see `_serve`
            if answer is not None and answer.error is not None:
                diagnose(f"a default command for all ranks failed in this process: {answer.error}")
        for prepared in tuple(self._prepared):
            self._end(prepared, ConfigTransaction.commit)

    def carry_out(self, encoded: bytes, refusing: type[BaseException] = Exception) -> Answer | None:
        """Carry out one message; return its acknowledgement, or None if it has none or it travels in the stream.

        An exception of type `refusing` becomes the acknowledgement's error.
        """
        command: Message = decode(encoded, Command, Completed, KeepWaiting, Kept, Release)
        if isinstance(command, Release):
            self._on_release()
            return None
        if isinstance(command, Completed):
            self.completions.note(command)
            return None
        if isinstance(command, Kept):
            if self._stream is not None:
                self._stream.is_kept(command.generation)
            return None
        if not isinstance(command, Command):
            if self._stream is not None:
                self._stream.client_moves()
            return None
        try:
            if isinstance(command, Flush):
                return self._flush(command)
            if isinstance(command, TakeStacks):
                return StacksAnswer(command.request, None, thread_stacks(internal_threads))
            if isinstance(command, LogWarnings):
                if self._warnings:
                    log_warnings(command.filters)
            elif isinstance(command, Prepare):
                self._configure(command)
            elif isinstance(command, Commit):
                self._end(command.prepared, ConfigTransaction.commit)
            elif isinstance(command, Rollback):
                self._end(command.prepared, ConfigTransaction.rollback)
        except refusing as refusal:
            return Answer(command.request, _explain(refusal))
        return Answer(command.request, None)

    def _run(self) -> None:
        internal_threads.add(threading.get_ident())
        transport_threads.add(threading.get_ident())
        try:
            self._serve()
            while (link := self._find_next()) is not None:
                self._link = link
                self._serve()
            self._on_gone()
        finally:
            internal_threads.discard(threading.get_ident())
            transport_threads.discard(threading.get_ident())

    def _serve(self) -> None:
        """Carry out commands until the connection is closed."""
        try:
            while True:
                encoded = self._link.receive(self.levels.revert_due())
                if encoded is None:
                    continue
                # A handler factory or a replaced sys.stdout may raise SystemExit: later commands need this thread.
                answer = self.carry_out(encoded, BaseException)
                if answer is not None:
                    self._link.send_message(answer)
        except (OSError, EOFError, ProtocolError) as failure:
            if isinstance(failure, ProtocolError):
                diagnose(f"protocol error from the client, connection closed: {failure}")
            # A change that the client did not confirm is undone.
            for prepared in tuple(self._prepared):
                self._end(prepared, ConfigTransaction.rollback)
            self._link.close()
            self.completions.close()

    def _flush(self, command: Flush) -> Answer | None:
        for stream in (sys.stdout, sys.stderr):
            # The program may have replaced the stream by one that raises anything.
            with contextlib.suppress(BaseException):
                if stream is not None and not stream.closed:
                    stream.flush()
        if self._stream is None:
            return Answer(command.request, None)
        self._stream.append_flush(command.request)
        return None

    def restore_levels(self) -> None:
        """Set each logger back to its level before the first command for it. Any thread may call it."""
        self.levels.restore()

    def _configure(self, command: Prepare) -> None:
        saved = self.levels.saved()
        before = {name: level_of(name) for name in leveled(command.config)}
        transaction = ConfigTransaction(command.config)
        self.levels.changed(before, command.for_sec)
        if command.final:
            transaction.commit()
        else:
            self._prepared[command.request] = transaction, saved

    def _end(self, prepared: int, how: Callable[[ConfigTransaction], None]) -> None:
        entry = self._prepared.pop(prepared, None)
        if entry is not None:
            transaction, saved = entry
            how(transaction)
            if how is ConfigTransaction.rollback:
                self.levels.load(saved)


def _explain(refusal: BaseException) -> str:
    """Return the reason in one line, with its causes: the message of `dictConfig` alone only names the section."""
    parts: list[str] = []
    error: BaseException | None = refusal
    while error is not None and len(parts) < 5:
        parts.append(f"{type(error).__name__}: {error}" if not isinstance(error, MeshlogError) else str(error))
        error = error.__cause__ or error.__context__
    return "; because ".join(parts)[:_MAX_REASON]
