"""How a process ended, asked of the kernel."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import sys
import threading
import time
from typing import Any, Final

from .waits import monotonic

# struct pidfd_info of <linux/pidfd.h>, as Linux 6.15 has it: what is asked for and given, ten fields between, the wait status.
_INFO: Final = struct.Struct("<Q52xi")
_GET_INFO: Final = 0xC000FF0B | _INFO.size << 16
_INFO_EXIT: Final = 1 << 3

_REAPING_SEC: Final = 0.05
_ENDING_SEC: Final = 0.01
_PR_GET_PDEATHSIG: Final = 2
_PACKAGES: Final = ("multiprocessing", "multiprocess", "billiard")


def _remembers() -> bool:
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return sys.platform == "linux" and release is not None and (int(release[1]), int(release[2])) >= (6, 15)


remembers = _remembers()
"""Whether the kernel knows of a process that was reaped how it ended."""


def watch(pid: int) -> int:
    """Return a descriptor that becomes readable when process `pid` ends; -1 where the kernel has none (macOS, old Linux).

    Raises
    ------
    ProcessLookupError
        If it has ended already.
    """
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # forbidden by a sandbox, or no descriptor left: the end of the connection tells as well
        return -1


def started_here(pid: int) -> Any:
    """Return the `Popen` of a child that this process has started by `multiprocessing` or a package like it, else None.

    Where the kernel forgets exit codes, it knows the one of a child that the program has reaped.
    """
    if remembers:
        return None
    children = [child for name in _PACKAGES for child in tuple(getattr(sys.modules.get(f"{name}.process"), "_children", ()))]
    return next((child._popen for child in children if child._popen is not None and child._popen.pid == pid), None)


def exit_code(pidfd: int, pid: int, popen: Any = None) -> int | None:
    """Return the exit code (negative: the signal) of a process that ended, whether or not it was reaped; None: not known.

    Linux 6.15 and later know the exit code of any process that was reaped, for as long as a `pidfd` opened before is open.
    Older ones know that of a process that was not; `popen` (see `started_here`) knows it from then on.
    """
    for ask in (_reaped, _waiting_child, _waiting):
        code = ask(pidfd, pid)
        if code is not None:
            return code
    if not _is_over(pidfd):
        return None  # a living process that has closed its connection
    # Its parent was faster than the questions. It, or the kernel for it, is about to note the exit code.
    deadline = monotonic() + _REAPING_SEC
    while True:
        code = _reaped(pidfd, pid) if popen is None else popen.returncode
        if code is not None or monotonic() >= deadline or not (remembers or popen is not None):
            return code
        time.sleep(0.001)


def _is_over(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _reaped(pidfd: int, pid: int) -> int | None:
    info = bytearray(_INFO.pack(_INFO_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:  # not this kernel
        return None
    given, status = _INFO.unpack(info)
    return os.waitstatus_to_exitcode(status) if given & _INFO_EXIT else None


def _waiting_child(pidfd: int, pid: int) -> int | None:
    if not hasattr(os, "P_PIDFD"):
        return None
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:  # another process's child, or reaped
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _waiting(pidfd: int, pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            owner = os.fstat(file.fileno()).st_uid
            fields = file.read().rpartition(b")")[2].split()
        signal.pidfd_send_signal(pidfd, 0)  # no signal: it asks whether `pid` was still that process
    except OSError:
        return None
    # The kernel shows 0 to whom it does not show the exit code.
    if fields[0] != b"Z" or owner != os.geteuid():
        return None
    return os.waitstatus_to_exitcode(int(fields[-1]))


def parents_death() -> tuple[int, int, int] | None:
    """Return the signal that ends this process when the thread that started it ends, that thread's process, and the thread.

    None: nothing does, as far as can be known. A program that asks the kernel for it (Celery does) does so by `ctypes`.
    """
    ctypes: Any = sys.modules.get("ctypes")
    if sys.platform != "linux" or ctypes is None:
        return None
    number = ctypes.c_int(0)
    if ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0) or not number.value:
        return None
    parent = os.getppid()
    return number.value, parent, _forked_by[1] if _forked_by[0] == parent else parent


def has_ended(pid: int, thread: int) -> bool:
    """Tell whether a thread of a process has ended; one that is about to end is waited for for a moment."""
    deadline = monotonic() + _ENDING_SEC
    while os.path.exists(f"/proc/{pid}/task/{thread}"):
        if monotonic() >= deadline:
            return False
        time.sleep(0.001)
    return True


def signal_name(exitcode: int | None) -> str:
    """Spell an exit code: ``SIGSEGV`` for a negative one, else ``exit code 3``."""
    if exitcode is None:
        return "an unknown cause"
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


_forked_by = (0, 0)
"""The process and the thread that has forked last here, or by which this process was forked."""


def _before_fork() -> None:
    global _forked_by
    _forked_by = os.getpid(), threading.get_native_id()


os.register_at_fork(before=_before_fork)
