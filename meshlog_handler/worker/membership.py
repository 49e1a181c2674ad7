"""This process's membership of a client: connection, stream, threads and captured pipes, made and unmade together.

One per process. A forked child inherits none of it but the address: it joins anew, as itself, with its first record.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from .. import settings
from ..errors import ConnectError
from ..journal.writer import Journal
from ..protocol.immutable import Immutable, field
from ..protocol.messages import Ending, Goodbye, Hello, Leash, Relabel
from ..protocol.record import MeshInfo
from ..system import unpatched
from ..system.descriptors import FileIdentity, identity, place_of
from ..system.exit_status import parents_death
from ..system.fd_capture import FdCapture, diagnose
from ..transport.channel import Address, connect
from .forwarder import LogForwarder, report_loss
from .record_stream import OnFull, RecordStream, internal_threads
from .runtime import LoggerRuntime

_GOODBYE_SEC: Final = 0.5
_ROOM_SEC: Final = 10.0
"""Seconds that the end of a process waits for a client that reads nothing of what was printed."""

_RUNTIME_SEC: Final = 1.0
_FORK_SEC: Final = 2.0
"""Seconds that a fork waits, at most, for a thread that joins or leaves."""
_UNCAUGHT_SIZE: Final = 256


class JoinOptions(Immutable):
    """How to join: what a forked child needs to join anew.

    Attributes
    ----------
    address : str
        The client's.
    rank, local_rank : int or None
        What this process is called; None asks the client for the next free rank. For the client's own process,
        `own` is True: it has no rank.
    mesh : str
        The token of the mesh that made this process, or "".
    coords : Mapping
        Its position, or a name, by dimension.
    capture : bool
        Capture file descriptors 1 and 2.
    warnings : bool
        Log warnings, by the client's filters.
    launched : str
        Where the rank is from the environment, what a launcher said there.
    """

    secret: ClassVar = frozenset(("address",))  # it has the key in it
    address: str
    rank: int | None = None
    local_rank: int | None = None
    mesh: str = ""
    coords: Mapping[str, int | str] = field(default_factory=dict)
    capture: bool = False
    on_full: OnFull = "block"
    warnings: bool = False
    launched: str = ""


def launched_options(address: str, rank: int | None = None, **options: Any) -> JoinOptions:
    """Return terms for a process that a launcher may have given a rank, unless `rank` says which."""
    if rank is not None:
        return JoinOptions(address, rank, settings.local_rank(), **options)
    return JoinOptions(address, settings.rank(), settings.local_rank(), launched=settings.launched(), **options)


class Membership:
    """What a process that joined has. Made by `join`; any thread may call `leave`."""

    def __init__(self, options: JoinOptions) -> None:
        self.options = options
        self.pid = os.getpid()
        self.rank: int | None = options.rank
        self.stream: RecordStream | None = None
        self._capture: FdCapture | None = None
        self._forwarder: LogForwarder | None = None
        self.over = False
        self._left = False
        self._gone = False
        self._ending = False
        self._on_loss: Callable[[], object] | None = None
        self._uncapturing = threading.RLock()
        forwarding = settings.forwarding_enabled()
        journal_size = settings.journal_size()
        address = Address.parse(options.address)
        fds: dict[int, int] = {}
        if options.capture and forwarding:
            self._capture = FdCapture()
            try:
                fds = self._capture.start()
            except OSError as failure:  # no descriptor left: nothing was captured
                diagnose(f"what this process prints is not captured: {failure}")
        names = {1: "stdout", 2: "stderr"}
        hello = Hello(
            pid=self.pid,
            hostname=socket.gethostname(),
            rank=options.rank,
            local_rank=options.local_rank,
            mesh=options.mesh,
            captured=tuple(names[fd] for fd in fds),
            forwarding=forwarding,
            started=time.time(),
            coords=dict(options.coords),
            launched=options.launched,
        )
        try:
            self._link, welcome = connect(address, hello, tuple(fds.values()))
        except BaseException:
            self._uncapture()
            raise
        self.rank = welcome.rank
        if forwarding:
            self._forwarder = LogForwarder(self._link)
            self.stream = RecordStream(make_journal(welcome.journal, journal_size), options.on_full, self._forwarder.wake)
            self._forwarder.attach(self.stream)
        self._runtime = LoggerRuntime(self._link, self.stream, self._lose_client, self._release, warnings=options.warnings)
        self._runtime.join_in(welcome.defaults)
        leash = parents_death()
        if leash is not None:
            with contextlib.suppress(OSError):  # the client is gone: nobody is left to know
                self._link.send_message(Leash(*leash))
        if self._forwarder is not None:
            self._forwarder.start()
        self._runtime.start()

    def _release(self) -> None:
        """The client is about to end in order, and shows what was logged so far; from now on this process shows its own logs.

        The stream ends first: a record is in it, or is shown here. Subprocesses print to the client until it hangs up.
        """
        if self._left or self.over or self.pid != os.getpid():
            return
        if self.stream is not None:
            self.stream.end()
        self.over = True
        for give_back in when_released:
            give_back(self)
        if self._capture is not None:
            self._capture.lead_back()
        if self._forwarder is not None:
            self._forwarder.finish(Goodbye())
        else:
            self._link.send_last(Goodbye(), _GOODBYE_SEC)

    def _lose_client(self) -> None:
        if self.pid != os.getpid():
            return
        if self._left:
            self._link.forget()
            return
        if self.over:
            self._uncapture()
            self._give_up()
            if self._on_loss is not None:
                self._on_loss()
            return
        if not self._link.intact:  # the client lives, as far as anybody here can tell, and reads the captured pipes
            if self.stream is not None:
                self.stream.lose_link()
            return
        if self.stream is not None:
            self.stream.lose_client()
            # The client's own process, which has no rank, knows; and who is told goes on in a way of its own.
            if self.rank is not None and self._on_loss is None:
                report_loss(self.stream)
        self._uncapture()
        if self._on_loss is not None:
            self._on_loss()

    @property
    def left(self) -> bool:
        """Whether the process has left, or was forked from the one that joined."""
        return self._left or self.pid != os.getpid()

    def _give_up(self) -> None:
        """Close what was needed for a client that has ended."""
        global _current
        self._gone = True
        if self.stream is not None:
            self.stream.lose_client()
            self.stream.journal.close()
        self._link.forget()
        with _lock:
            if _current is self:
                _current = None

    def when_lost(self, then: Callable[[], object]) -> None:
        """Call `then` once the client is gone, on any thread, at once if it is so already; perhaps twice. Not after `leave`."""
        self._on_loss = then
        if not self._left and (self._gone or self._link.hung_up):
            then()

    def restore_levels(self) -> None:
        """Give loggers back the levels that they had before the client set others. Any thread."""
        self._runtime.restore_levels()

    def relabel(self, coords: Mapping[str, int | str]) -> None:
        """Be known by these coordinates from the next record on, and so are children that are forked later."""
        self.options = self.options.replaced(coords=dict(coords))
        with contextlib.suppress(OSError):  # the client is gone: nobody is left to know
            self._link.send_message(Relabel(dict(coords)))

    def client_console(self) -> frozenset[FileIdentity]:
        """Return what the client's stdout and stderr lead to; where that is not known, this process's, if it is a terminal."""
        pid = self._link.peer_pid
        places = {place_of(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} if pid else {None}
        if places == {None}:
            places = {identity(fd) for fd in (1, 2) if os.isatty(fd)}
        return frozenset(place for place in places if place is not None)

    def _uncapture(self, drain: bool = True) -> None:
        with self._uncapturing:  # who comes second returns when it is done
            if self._capture is not None:
                self._capture.stop(drain)
                self._capture = None

    def settle(self) -> None:
        """Tell the client that the process ends in order, and whether by an exception that nothing caught.

        Where the client is gone, bring what lies in the captured pipes to where it was meant to go.
        """
        if self._left:
            return
        if self._link.hung_up:
            self._uncapture()
        elif not self._ending and not self.over:  # the interpreter of a spawned child ends after the child's own exit functions
            self._ending = True
            self._link.send_last(Ending(_uncaught()), _GOODBYE_SEC)
            if self._capture is not None and not self._capture.has_room(_ROOM_SEC):
                self._capture.lead_back()  # the client is stopped: what is flushed from now on would wait for it

    def leave(self) -> None:
        """Ship what there is, restore the file descriptors, hang up. Waits for the client two seconds at most."""
        if self._left:
            return
        self._left = True
        if self._capture is None or self._capture.has_room():  # else what they hold goes to where it was meant to go
            _flush_standard_streams()
        self._uncapture(drain=self._link.hung_up)
        self._link.send_last(Goodbye(), _GOODBYE_SEC)
        if self._forwarder is not None and self.stream is not None:
            thread = self._forwarder._thread
            self._forwarder.enqueue_sentinel()
            if thread is not None and threading.get_ident() not in internal_threads:
                thread.join(1.0)  # beyond that the journal keeps it, and the client reads it there
            self.stream.part()
        self._link.close()
        if self._runtime.wait_ended(_RUNTIME_SEC):
            self._link.forget()

    def forget(self) -> None:
        """In a forked child: give up what belongs to the parent."""
        if self.stream is not None:
            self.stream.lose_client()
            self.stream.journal.close()
        if self._capture is not None:
            self._capture.after_fork_in_child()
        self._link.forget()


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            with contextlib.suppress(OSError):  # nobody reads it; there is nothing to save
                stream.flush()


def make_journal(path: str, size: int) -> Journal:
    """Make the journal where the client wants it; smaller, then in memory, where there is no room."""
    while path and size >= 64 * 1024:
        try:
            return Journal(path, size)
        except OSError as failure:
            reason = failure
            size //= 4
    if path:
        diagnose(
            f"no journal can be made at {path} ({reason}): instead, each logging call waits until its record is shipped "
            f"(with on_full='drop', what is not yet shipped is lost if this process is killed). Make room there, or set "
            f"{settings.JOURNAL_SIZE} to a smaller size."
        )
        size = 256 * 1024
    return Journal(None, size)


_lock = threading.RLock()
_forking: set[int] = set()
"""The threads that hold the lock because they fork."""

when_released: Final[list[Callable[[Membership], object]]] = []
"""Called in a process whose client is about to end in order, when its stream has ended."""

_postponed: Final[list[Callable[[], object]]] = []
_current: Membership | None = None
_beside: weakref.WeakSet[Membership] = weakref.WeakSet()
_inherited: JoinOptions | None = None


def current() -> Membership | None:
    """Return this process's membership, or None."""
    member = _newest()
    return None if member is None or member.over else member


def _newest() -> Membership | None:
    """Return this process's membership, also that of a client which is about to end."""
    member = _current
    return member if member is not None and member.pid == os.getpid() else None


def info() -> MeshInfo:
    """Return what the client knows about every record of this process."""
    member = current()
    if member is None:
        return MeshInfo(hostname=socket.gethostname())
    local_rank = member.options.local_rank if member.options.local_rank is not None else member.rank
    return MeshInfo(member.rank, local_rank, socket.gethostname(), member.options.coords)


def join(options: JoinOptions) -> Membership:
    """Join the client, or return the membership there is if it is one of the same client.

    A membership that does not capture, where `options` ask for it, is exchanged for one that does, under the same rank.

    Raises
    ------
    ConnectError
        If the client cannot be joined.
    """
    global _current
    unpatched.use()
    with _lock:
        member = _newest()
        if member is not None:
            if member.options.address == options.address and not member.over:
                if member.options.capture or not options.capture:
                    return member
                options = member.options.replaced(rank=member.rank, capture=True, launched="")
            _current = None
            member.leave()
        _current = Membership(options)
        _settle_at_exit()
        return _current


def beside(options: JoinOptions) -> Membership:
    """Return a membership for a queue: this process's own, or another one beside it, for the queue alone.

    Raises
    ------
    ConnectError
        If the client cannot be joined.
    """
    member = current()
    if member is None or member.options.address != options.address:
        member = Membership(options)
        _beside.add(member)
        _settle_at_exit()
    return member


def rejoin(*, quiet: bool = False) -> Membership | None:
    """In a forked child: join the parent's client anew. None if there is none, or it is gone.

    One that is gone is said, unless `quiet`; one that has ended in order, and removed its directory, is not.
    """
    global _inherited
    with _lock:
        member = current()
        if member is not None or _inherited is None:
            return member
        options, _inherited = _inherited, None
        try:
            return join(options)
        except ConnectError as failure:
            if not quiet and not isinstance(failure.__cause__, FileNotFoundError):
                diagnose(f"process {os.getpid()} was forked from one that forwards its logs, and cannot: {failure}")
            return None


def postpone(work: Callable[[], object]) -> bool:
    """In a child whose other hooks of `os.register_at_fork` run before ours: do `work` after ours. Else return False."""
    if _current is None or _current.pid == os.getpid():
        return False
    _postponed.append(work)
    return True


def leave() -> None:
    """Leave the client, if this process is a member of one."""
    global _current
    with _lock:
        member, _current = _newest(), None
        if member is not None:
            member.leave()


def _settle_at_exit() -> None:
    """See to it that `Membership.settle` is called where this process ends in order. Once in a process."""
    global _settles, _shown_before
    if _settles == os.getpid():
        return
    _shown_before = getattr(sys, "last_value", None)
    if not _settles:
        atexit.register(_settle)
    _settles = os.getpid()
    for name in ("multiprocessing.util", "multiprocess.util"):
        util: Any = sys.modules.get(name)
        if util is not None:  # children of multiprocessing run these instead, and not what their parent has registered
            util.Finalize(None, _settle, exitpriority=-200)
            if sys.version_info >= (3, 13) and sys.modules[f"{name[:-5]}.process"].parent_process() is not None:
                _note_what_ends_a_child()


def _note_what_ends_a_child() -> None:
    """See to it that `_uncaught` knows the exception that ends a child of `multiprocessing`.

    From Python 3.13 on, a child runs its exit functions after it has printed the exception, and nothing keeps that.
    """
    print_exc = traceback.print_exc
    if hasattr(print_exc, "notes"):
        return

    def print_and_note(*args: Any, **options: Any) -> None:
        global _printed
        if sys._getframe(1).f_code.co_name == "_bootstrap":
            _printed = sys.exc_info()[1]
        print_exc(*args, **options)

    print_and_note.notes = True  # type: ignore[attr-defined]  # how the second call knows it
    traceback.print_exc = print_and_note


_printed: BaseException | None = None


def _settle() -> None:
    for member in (_newest(), *_beside):
        if member is not None and member.pid == os.getpid():
            member.settle()


_settles = 0
_shown_before: BaseException | None = None
"""The exception that had last been shown as uncaught when this process joined: of a prompt, or of a parent."""


def _uncaught() -> str:
    """Return the exception that ends this interpreter in a line, "" if none does. Called by its exit functions.

    Children of `multiprocessing` run them while the exception is being handled, others after it was shown.
    """
    error = sys.exc_info()[1] or _printed or getattr(sys, "last_value", None)
    if error is None or error is _shown_before or isinstance(error, (SystemExit, KeyboardInterrupt)):
        return ""
    return traceback.format_exception_only(type(error), error)[-1].strip()[:_UNCAUGHT_SIZE]


def _before_fork() -> None:
    # Half a membership is no use to a child: a thread that joins, or leaves, finishes that first.
    if _lock.acquire(timeout=_FORK_SEC):
        _forking.add(threading.get_ident())


def _after_fork_in_parent() -> None:
    if threading.get_ident() in _forking:
        _forking.discard(threading.get_ident())
        _lock.release()


def _after_fork_in_child() -> None:
    global _current, _inherited, _lock
    _lock = threading.RLock()
    _forking.clear()
    member, _current = _current, None
    for other in tuple(_beside):
        other.forget()
    _beside.clear()
    if member is not None:
        member.forget()
        # The parent's pipes are the child's, too: what it prints arrives, under the parent's rank.
        options = member.options
        inherited = JoinOptions(options.address, member.rank, options.local_rank, "", options.coords, False, options.on_full)
        _inherited = None if member.over else inherited
    while _postponed:
        _postponed.pop(0)()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
