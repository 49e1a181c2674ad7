"""Membership: connection, stream, threads and captured pipes of a process that joined a client, created and closed together."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol

from .. import settings
from ..errors import ConnectError
from ..journal.shown import ShownReader, shown_path
from ..journal.writer import Journal
from ..protocol.immutable import Immutable, field
from ..protocol.messages import Ending, Goodbye, Hello, ParentDeath, Relabel, Welcome
from ..system.descriptors import FileIdentity, identity
from ..system.diagnostics import diagnose
from ..system.exit_status import parents_death
from ..system.fd_capture import FdCapture
from ..transport.channel import Address, Link, connect
from . import uncaught
from .forwarder import LogForwarder, report_loss
from .next_client import patiently
from .record_stream import OnFull, RecordStream, internal_threads
from .runtime import LoggerRuntime
from .stacks import StackDump
from .timed_levels import TimedLevels

_GOODBYE_SEC: Final = 0.5
_ROOM_SEC: Final = 10.0
"""Seconds for which an exiting process waits for a client that does not read the captured pipes."""

_RUNTIME_SEC: Final = 1.0
_SHIP_SEC: Final = 1.0
_NAMES: Final = {1: "stdout", 2: "stderr"}


when_released: Final[list[Callable[[Membership], object]]] = []
"""Functions to call in a process whose client is about to stop, after the stream has ended."""


class JoinOptions(Immutable):
    """The options of a membership; a forked child joins with a copy."""

    secret: ClassVar = frozenset(("address",))  # it contains the key
    address: str
    rank: int | None = None  # None asks the client for the next free rank
    local_rank: int | None = None
    mesh: str = ""  # the token of the mesh or engine that started this process, or of the client itself
    coords: Mapping[str, int | str] = field(default_factory=dict)  # position or name, by dimension
    capture: bool = False  # of file descriptors 1 and 2
    on_full: OnFull = "block"
    warnings: bool = False  # log warnings by the client's filters
    launched: str = ""  # the launcher's variables, if the rank comes from the environment
    job: str = ""  # the name of the job: when the client ends, another process of the job shows the rest
    levels: TimedLevels | None = None  # of the parent of a forked child: its loggers have them, too
    parent_death: tuple[int, int, int] | None = None  # see `parents_death`, which must be asked on the thread of the program


def launched_options(address: str, rank: int | None = None, **options: Any) -> JoinOptions:
    """Return options with `rank`, or else with the rank that a launcher may have set in the environment."""
    if rank is not None:
        return JoinOptions(address, rank, settings.local_rank(), **options)
    return JoinOptions(address, settings.rank(), settings.local_rank(), launched=settings.launched(), **options)


class Job(Protocol):
    """The part of `job_member.JobMember` that is used here and in `this_process`."""

    @property
    def begins_again(self) -> bool:
        """Whether this process may show the job once more, by a new client."""

    @property
    def exits(self) -> bool:
        """Whether this process exits, and leaves the rest to the next client."""

    def find_next(self, member: Membership) -> None:
        """Let `member` go on with the next client, if there is one in time."""

    def rejoin(self, options: JoinOptions) -> Membership | None:
        """In a forked child whose parent's client is gone: take part again."""


class Membership:
    """The connection, stream, threads and captured pipes of a process that joined. Any thread may call `leave`.

    It outlives a client that ends, if another one goes on with the stream: the next client of the same job, or the replacement
    of a relay. The journal keeps what the earlier one has not shown.

    If `shows_before_end` is set, the process ends when the client has shown its records, at most a second later: its parent may
    read them, or end without notice, as soon as it has joined the process.
    """

    job: ClassVar[Job | None] = None
    """This process's part in a job."""

    def __init__(self, options: JoinOptions, over: Callable[[Membership], object] = lambda member: None) -> None:
        self.options = options
        self._over = over
        self.pid = os.getpid()
        self.rank: int | None = options.rank
        self.stream: RecordStream | None = None
        self._capture: FdCapture | None = None
        self._dump: StackDump | None = None
        self._forwarder: LogForwarder | None = None
        self.over = self.lost = False
        self._left = False
        self._gone = False
        self._ending = False
        self.shows_before_end = False
        self._on_loss: Callable[[], object] | None = None
        self._uncapturing = threading.RLock()
        forwarding = settings.forwarding_enabled()
        journal_size = settings.journal_size()
        dumps = settings.stack_signal()
        address = Address.parse(options.address)
        fds = self._start_capture(options.capture and forwarding)
        self._hello = Hello(
            pid=self.pid,
            hostname=socket.gethostname(),
            rank=options.rank,
            local_rank=options.local_rank,
            mesh=options.mesh,
            captured=tuple(_NAMES[fd] for fd in fds),
            forwarding=forwarding,
            started=time.time(),
            coords=dict(options.coords),
            launched=options.launched,
            job=options.job,
        )
        try:
            self._link, welcome = connect(address, self._hello, tuple(fds.values()))
        except BaseException:
            self._uncapture()
            raise
        self.rank = welcome.rank
        try:
            self._start(welcome, journal_size, forwarding=forwarding, dumps=dumps)
        except BaseException as failure:
            self._undo()
            if isinstance(failure, RuntimeError):
                raise ConnectError(f"this process cannot start what forwards its logs: {failure}") from failure
            raise

    def _start(self, welcome: Welcome, journal_size: int, *, forwarding: bool, dumps: bool) -> None:
        """Make the journal, and start the threads."""
        options = self.options
        if forwarding:
            self._forwarder = LogForwarder(self._link)
            self.stream = RecordStream(make_journal(welcome.journal, journal_size), options.on_full, self._forwarder.wake)
            self.stream.journal.retains = welcome.retains
            if options.job and self.stream.journal.path is not None:
                with contextlib.suppress(OSError):  # the client could not make it; records that it has are lost with it
                    self.stream.journal.keep_until_shown(ShownReader(welcome.journal))
            self._forwarder.attach(self.stream)
        # For a later client. That of a job knows nothing of the meshes of the last one.
        mesh = "" if options.job else options.mesh
        self._hello = self._hello.replaced(rank=welcome.rank, mesh=mesh, launched="", resumes=welcome.journal)
        self._runtime = LoggerRuntime(
            self._link,
            self.stream,
            find_next=self._find_next,
            on_gone=self._lose_client,
            on_release=self._release,
            warnings=options.warnings,
            levels=options.levels,
        )
        self._runtime.apply_defaults(welcome.defaults)
        self._parent_death = options.parent_death or parents_death()
        if self._forwarder is not None:
            self._forwarder.start()
        self._dump = StackDump.register() if dumps and self.rank is not None else None  # the client's own process has no rank
        self._runtime.start()
        self._introduce()

    def _start_capture(self, wanted: bool) -> dict[int, int]:
        """Capture the output, if it is `wanted` and is not captured yet; return the read ends of the pipes."""
        with self._uncapturing:
            if not wanted or self._left:
                return {}
            self._capture = self._capture or FdCapture()
            try:
                return self._capture.start()
            except OSError as failure:  # no descriptor is left: nothing is captured
                diagnose(f"the output of this process is not captured: {failure}")
                return {}

    def _introduce(self) -> None:
        """Tell the client what it needs to know besides the records."""
        with contextlib.suppress(OSError):  # the client is gone
            if self._parent_death is not None:
                self._link.send_message(ParentDeath(*self._parent_death))
            if self._dump is not None:
                self._link.send_message(self._dump.message(self._runtime.native_id))

    def _undo(self) -> None:
        """Release what a membership has that could not start."""
        self._left = True
        self._uncapture()
        self._close_dump()
        if self._forwarder is not None:
            self._forwarder.enqueue_sentinel()
        if self.stream is not None:
            self.stream.part()
        self._link.close()
        self._link.forget()

    def _close_dump(self) -> None:
        dump, self._dump = self._dump, None
        if dump is not None:
            dump.close()

    def _release(self) -> None:
        """Stop forwarding, because the client is about to stop. From now on this process shows its own logs."""
        # The stream ends first: each record is either in the stream, and the client shows it, or shown here. The output of
        # subprocesses goes to the client until it closes the connection.
        if self._left or self.over or self.pid != os.getpid():
            return
        if self.stream is not None:
            self.stream.end()
        self.over = True
        for released in when_released:
            released(self)
        if self._capture is not None:
            self._capture.lead_back()
        if self._forwarder is not None:
            self._forwarder.finish(Goodbye())
        else:
            self._link.send_last(Goodbye(), _GOODBYE_SEC)

    @property
    def goes_on(self) -> bool:
        """Whether this process takes another client if this one is gone."""
        return not self._left and not self.over and self.pid == os.getpid()

    @property
    def _resumable(self) -> bool:
        """Whether another client could go on with the stream."""
        return self._job is not None if self.stream is None else self.stream.journal.retains

    @property
    def _job(self) -> Job | None:
        return self.job if self.options.job else None

    def _find_next(self) -> Link | None:
        """Find a client that goes on with the stream; return the connection to it, or None. Meanwhile, nothing is shipped."""
        former = self._link
        if not self.goes_on or not former.intact or not self._resumable:
            return None
        if self._forwarder is not None:
            self._forwarder.pause()
        if self._job is not None:
            self._uncapture()
            self._job.find_next(self)
        else:  # the replacement of a relay has its address, and reads what is left in the same pipes
            patiently(lambda: self.go_on(self.options.address, self._capture is not None), lambda: self.goes_on)
        return None if self._link is former else self._link

    def go_on(self, address: str, capture: bool) -> bool:
        """Go on with another client; return False if this process has left. Only while `_find_next` runs.

        Raises `ConnectError`.
        """
        self._hello = self._hello.replaced(coords=dict(self.options.coords))
        fds = self._start_capture(capture)
        hello = self._hello.replaced(captured=tuple(_NAMES[fd] for fd in fds))
        link, welcome = connect(Address.parse(address), hello, tuple(fds.values()))
        if not self.goes_on:
            link.close()
            link.forget()
            return False
        former, self._link = self._link, link
        self._runtime.completions.reopen()
        former.forget()
        if address != self.options.address:
            self.options = self.options.replaced(address=address, capture=capture)
        self._runtime.apply_defaults(welcome.defaults)
        self._introduce()
        if self._forwarder is not None:
            self._forwarder.resume(link, welcome.generation)
        if not self.goes_on:
            link.close()
        return True

    def _lose_client(self) -> None:
        if self.pid != os.getpid():
            return
        self._close_dump()
        if self._left:
            self._link.forget()
            return
        if self.over:
            self._uncapture()
            self._close_all()
            if self._on_loss is not None:
                self._on_loss()
            return
        if self.lose_descriptors():
            return
        if not self._link.intact and (self._resumable or not self._link.within):
            # The client may still live, and read the captured pipes.
            if self.stream is not None:
                self.stream.lose_link()
            return
        if self._job is None or not self._job.exits:  # else the next client of the job reads the journal
            self._give_up()

    def _give_up(self) -> None:
        """Note that the client is gone for good."""
        self._gone = True
        if self.stream is not None and self.options.job and self.stream.journal.path is not None:
            with contextlib.suppress(OSError):  # from now on this process shows its records, and not a later client
                os.unlink(shown_path(self.stream.journal.path))
        if self.stream is not None:
            # A relay that comes too late reads the journals of processes that have ended.
            self.stream.lose_client(read_later=self._resumable and not self.options.job)
            # Not in the client's own process, which has no rank, nor if a callback handles the loss.
            if self.rank is not None and self._on_loss is None:
                report_loss(self.stream)
        self._uncapture()
        if self._on_loss is not None:
            self._on_loss()

    @property
    def left(self) -> bool:
        """Whether this process has left, or was forked from the one that joined."""
        return self._left or self.pid != os.getpid()

    def lose_descriptors(self) -> bool:
        """If this process shows its job, and the program has closed the descriptors, end: it joins again with its next record.

        Return whether it ends. A client in another process still reads the journal.
        """
        job = self._job
        if job is None or not job.begins_again or job.exits or not self.goes_on or not self._link.within or self._link.intact:
            return False
        self.lost = True
        self.abandon()
        return True

    def abandon(self) -> None:
        """Leave the journal to the next client of the job, because this process exits. Any thread."""
        self.over = True
        self.end_stream()
        self._uncapture()
        self._close_all()

    def end_stream(self) -> None:
        """Let the stream take no more records. Any thread."""
        if self.stream is not None:
            self.stream.end()

    def _close_all(self) -> None:
        """Close the connection and the journal after the client has stopped."""
        self._gone = True
        if self.stream is not None:
            self.stream.part()
        self._link.forget()
        self._over(self)

    @property
    def hung_up(self) -> bool:
        """Whether the client has closed the connection."""
        return self._link.hung_up

    def when_lost(self, then: Callable[[], object]) -> None:
        """Call `then` when the client is gone, at once if it is already; on any thread, perhaps twice, not after `leave`."""
        self._on_loss = then
        if not self._left and (self._gone or (self._link.hung_up and not self._resumable)):
            then()

    @property
    def levels(self) -> TimedLevels:
        """The levels that the client's commands have changed, for a forked child."""
        return self._runtime.levels

    def restore_levels(self) -> None:
        """Restore the levels that loggers had before the client set others. Any thread may call it."""
        self._runtime.restore_levels()

    def complete(self, seconds: float) -> bool:
        """Wait up to `seconds` until the client has shown everything that this process logged so far; return whether it has."""
        if self._forwarder is None or self.over or self._gone or self._link.hung_up:
            return False
        return self._runtime.completions.ask(self._forwarder.post, seconds)

    def relabel(self, coords: Mapping[str, int | str]) -> None:
        """Use these coordinates from the next record on, also in children that are forked later."""
        self.options = self.options.replaced(coords=dict(coords))
        with contextlib.suppress(OSError):  # the client is gone
            self._link.send_message(Relabel(dict(coords)))

    @property
    def client_pid(self) -> int | None:
        """The process id of the client, if it is on this machine and not known to be gone; otherwise None."""
        return None if self._gone or self._link.hung_up else self._link.peer_pid

    def client_console(self) -> frozenset[FileIdentity]:
        """Return the files behind the client's stdout and stderr; if unknown, the terminals behind this process's."""
        pid = self._link.peer_pid
        places = {identity(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} if pid else {None}
        if places == {None}:
            places = {identity(fd) for fd in (1, 2) if os.isatty(fd)}
        return frozenset(place for place in places if place is not None)

    def _uncapture(self, drain: bool = True) -> None:
        with self._uncapturing:  # a second caller returns when the first is done
            if self._capture is not None:
                self._capture.stop(drain)
                self._capture = None

    def report_end(self) -> None:
        """Report that this process exits normally, with its uncaught exception; or, if the client is gone, end the capture."""
        if self._left:
            return
        if self._link.hung_up:
            self._uncapture()  # and write what is left in the captured pipes to the original descriptors
        elif not self._ending and not self.over:  # a spawned child calls it twice: at its own exit, and at the interpreter's
            self._ending = True
            if self.stream is not None and self._link.intact and (self.shows_before_end or not self.stream.journal.outlives):
                self.complete(_SHIP_SEC)
            self._link.send_last(Ending(uncaught.line()), _GOODBYE_SEC)
            if self._capture is not None and not self._capture.has_room(_ROOM_SEC):
                self._capture.lead_back()  # the client does not read: later flushes would block

    def leave(self) -> None:
        """Ship everything, restore the file descriptors and close the connection; wait for the client at most two seconds."""
        if self._left:
            return
        self._left = True
        if self._capture is None or self._capture.has_room():  # else their content goes to the original descriptors
            _flush_standard_streams()
        self._uncapture(drain=self._link.hung_up)
        self._close_dump()
        self._link.send_last(Goodbye(), _GOODBYE_SEC)
        if self._forwarder is not None and self.stream is not None:
            self.stream.end()  # a record that is logged from now on belongs to the next membership
            self._forwarder.enqueue_sentinel()
            if threading.get_ident() not in internal_threads:
                self._forwarder.wait_ended(_SHIP_SEC)  # the client reads the rest from the journal
            self.stream.part()
        self._link.close()
        if self._runtime.wait_ended(_RUNTIME_SEC):
            self._link.forget()

    def wait_ended(self) -> None:
        """Wait until the threads have ended, if the client has stopped: none may run while the interpreter exits."""
        if self.over and self._runtime.wait_ended(_RUNTIME_SEC) and self._forwarder is not None:
            self._forwarder.wait_ended(_RUNTIME_SEC)

    def forget(self) -> None:
        """In a forked child: release what belongs to the parent."""
        if self.stream is not None:
            self.stream.part()  # frames of the parent's threads, which do not run here, still refer to it
        if self._capture is not None:
            self._capture.after_fork_in_child()
        self._close_dump()
        self._link.forget()


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            with contextlib.suppress(OSError):  # it has no reader: nothing to save
                stream.flush()


def make_journal(path: str, size: int) -> Journal:
    """Create the journal at `path`; if there is no room, a smaller one, and finally one in memory."""
    while path and size >= 64 * 1024:
        try:
            return Journal(path, size)
        except OSError as failure:
            reason = failure
            size //= 4
    if path:
        forbidden = reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        advice = "" if forbidden else f" Make room there, or set {settings.JOURNAL_SIZE} to a smaller size."
        diagnose(
            f"no journal can be made at {path}: {reason}. Instead, each logging call waits until its record is shipped "
            f"(with on_full='drop', unshipped records are lost if this process is killed).{advice}"
        )
        size = 256 * 1024
    return Journal(None, size)
