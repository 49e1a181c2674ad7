"""This process as a member of a client: join, leave, and what happens at a fork.

Each process has one membership. A forked child inherits only the options: it joins as a separate process, with its first
record.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..errors import ConnectError
from ..protocol.record import MeshInfo
from ..system import unpatched
from ..system.c_library import prepare_thread_ends
from ..system.diagnostics import diagnose
from ..system.fork_locks import acquire_first, forking
from ..system.shielded import run_whole
from ..system.waits import capped
from . import uncaught
from .member import JoinOptions, Membership
from .record_stream import internal_threads

_FORK_SEC: Final = 2.0
"""Seconds for which a fork waits at most for a thread that joins or leaves."""

_REPLACED_SEC: Final = 10.0
"""Seconds for which a logging call waits at most while another thread replaces the membership."""

_lock = threading.RLock()

_postponed: Final[dict[tuple[int, int], list[Callable[[], object]]]] = {}
"""What waits until a fork is over, by process and forking thread."""

_current: Membership | None = None
_replacing = False
"""Whether a thread, which holds the lock, is about to make a membership in the place of the last one."""

_beside: weakref.WeakSet[Membership] = weakref.WeakSet()
_inherited: JoinOptions | None = None


def current() -> Membership | None:
    """Return this process's membership, or None."""
    member = _newest()
    return None if member is None or member.over or member.lost else member


def _newest() -> Membership | None:
    """Return this process's membership, even if its client is about to stop, or None."""
    member = _current
    return member if member is not None and member.pid == os.getpid() else None


def info() -> MeshInfo:
    """Return what the client adds to every record of this process."""
    member = current()
    if member is None:
        return MeshInfo(hostname=socket.gethostname())
    local_rank = member.options.local_rank if member.options.local_rank is not None else member.rank
    return MeshInfo(member.rank, local_rank, socket.gethostname(), member.options.coords)


def _forget(member: Membership) -> None:
    """Note that a membership is over: its client has stopped, or the descriptors are closed. Then this process joins again."""
    global _current, _inherited
    with _lock:
        if _current is member:
            _current = None
            if member.lost:
                member.end_stream()  # first: the next client reads it before the next record
                _inherited = _options_of(member)


def join(options: JoinOptions) -> Membership:
    """Join the client, or return the current membership if it is of the same client. Raises `ConnectError`."""
    # A membership without capture is replaced by one with capture, under the same rank, if `options` ask for capture.
    global _current, _replacing
    unpatched.use()
    prepare_thread_ends()
    with _lock:
        member = _newest()
        if member is not None and member.options.address == options.address and not member.over:
            if member.options.capture or not options.capture:
                return member
            options = member.options.replaced(rank=member.rank, capture=True, launched="")
        _replacing = member is not None
        try:
            if member is not None:
                _current = None
                member.leave()
            _current = Membership(options, _forget)
        finally:
            _replacing = False
        _report_at_exit()
        return _current


def beside(options: JoinOptions) -> Membership:
    """Return a membership for a queue: one of the same client, or a new one. Raises `ConnectError`."""
    member = current()
    if member is not None and member.options.address == options.address:
        return member
    for other in tuple(_beside):  # of a queue that was pickled more than once
        if (other.options.address, other.options.mesh) == (options.address, options.mesh) and not (other.left or other.over):
            return other

    made = Membership(options)
    _beside.add(made)
    _report_at_exit()
    return made


def rejoin(*, quiet: bool = False) -> Membership | None:
    """In a forked child: join the parent's client; return None if the parent had no client, or it is gone.

    In any process: while another thread replaces the membership, wait for the next one.
    """
    # Unless `quiet`, a failure is reported; not so if the client was stopped, which removes its directory.
    if _replacing and threading.get_ident() not in internal_threads:  # these may have to end first
        return run_whole(_await_replacement)
    member = _newest()
    if member is not None and member.lost:  # another thread is about to do this
        run_whole(partial(_forget, member))
    return current() if _inherited is None else run_whole(partial(_rejoin, quiet))


def _await_replacement() -> Membership | None:
    # Not for ever: the other thread may wait for the lock of `logging`, which the caller may hold.
    if not _lock.acquire(timeout=capped(_REPLACED_SEC)):
        return None
    try:
        return current()
    finally:
        _lock.release()


def _rejoin(quiet: bool) -> Membership | None:
    global _inherited
    with _lock:
        member = current()
        if member is not None or _inherited is None:
            return member
        options, _inherited = _inherited, None
        try:
            return join(options)
        except ConnectError as failure:
            if options.job and Membership.job is not None:
                return Membership.job.rejoin(options)
            if not quiet and not isinstance(failure.__cause__, FileNotFoundError):
                diagnose(f"the forked process {os.getpid()} cannot forward its logs: {failure}")
            return None


def postpone(work: Callable[[], object]) -> bool:
    """In a fork hook of the program, which runs while the fork holds locks: do `work` after it. Otherwise return False."""
    # The client's thread may wait for these locks. In the child, the membership is the parent's until `_after_fork_in_child`.
    if not forking() and (_current is None or _current.pid == os.getpid()):
        return False
    _postponed.setdefault(_place(), []).append(work)
    return True


def _place() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def leave() -> None:
    """Leave the client, if this process has joined one."""
    global _current
    with _lock:
        member, _current = _newest(), None
        if member is not None:
            member.leave()


def _report_at_exit() -> None:
    """Register, once in a process, that `Membership.report_end` is called when it exits normally."""
    global _registered_pid
    if _registered_pid == os.getpid():
        return
    uncaught.begin()
    if not _registered_pid:
        atexit.register(_report_end)
    _registered_pid = os.getpid()
    for name in ("multiprocessing.util", "multiprocess.util"):
        util: Any = sys.modules.get(name)
        if util is not None:  # children of multiprocessing run these finalizers instead of `atexit` functions
            util.Finalize(None, _report_end, exitpriority=-200)
            if sys.version_info >= (3, 13) and sys.modules[f"{name[:-5]}.process"].parent_process() is not None:
                uncaught.note_in_child()


def _report_end() -> None:
    for member in (_newest(), *_beside):
        if member is not None and member.pid == os.getpid():
            member.report_end()


_registered_pid = 0


def _options_of(member: Membership) -> JoinOptions:
    """Return options with which a child, or this process, joins in the place of a membership."""
    # The child shares the parent's pipes: its output arrives under the parent's rank.
    options = member.options
    return JoinOptions(
        options.address,
        member.rank,
        options.local_rank,
        coords=options.coords,
        on_full=options.on_full,
        job=options.job,
        levels=member.levels,
    )


def _before_fork() -> None:
    member = current()
    if member is not None:
        member.lose_descriptors()  # else the child could take the journal of this process for that of an ended one


def _after_fork_in_child() -> None:
    global _current, _inherited, _lock, _replacing
    _lock, _replacing = threading.RLock(), False
    member, _current = _current, None
    for other in tuple(_beside):
        other.forget()
    _beside.clear()
    if member is not None:
        member.forget()
        _inherited = None if member.over else _options_of(member)
    postponed = _postponed.pop(_place(), [])
    _postponed.clear()  # the parent does the rest
    for work in postponed:
        work()


def _after_fork_in_parent() -> None:
    for work in _postponed.pop(_place(), []):
        work()


# A child cannot use an incomplete membership: a thread that joins or leaves finishes first.
acquire_first(lambda: _lock, _FORK_SEC)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
