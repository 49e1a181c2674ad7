"""Exit status of a process, from the kernel."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import sys
import threading
import time
from typing import Any, Final

from .descriptors import is_readable
from .waits import monotonic

# struct pidfd_info of <linux/pidfd.h> in Linux 6.15: mask of requested and returned fields, ten fields, the wait status.
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
"""Whether the kernel keeps the exit code of a reaped process."""


def watch(pid: int) -> int:
    """Return a descriptor that becomes readable when process `pid` ends; -1 if the kernel has none (macOS, old Linux).

    Raises `ProcessLookupError` if the process has ended already.
    """
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # forbidden by a sandbox, or no descriptor left: the closed connection shows the end instead
        return -1


def started_here(pid: int) -> Any:
    """Return the `Popen` of a child that `multiprocessing` or a similar package has started in this process, else None.

    If the kernel does not keep exit codes, this object keeps the one of a child that the program has reaped.
    """
    if remembers:
        return None
    children = [child for name in _PACKAGES for child in tuple(getattr(sys.modules.get(f"{name}.process"), "_children", ()))]
    return next((child._popen for child in children if child._popen is not None and child._popen.pid == pid), None)


def exit_code(pidfd: int, pid: int, popen: Any = None) -> int | None:
    """Return the exit code of a process that ended, reaped or not (negative: a signal number), or None if it is unknown.

    Linux 6.15 and later keep the exit code of a reaped process while a `pidfd` that was opened before is open. Older versions
    keep it until the process is reaped; from then on `popen` has it (see `started_here`).
    """
    for query in (_reaped, _waiting_child, _waiting):
        code = query(pidfd, pid)
        if code is not None:
            return code
    if not is_readable(pidfd, 0.0):
        return None  # the process runs, and has closed its connection
    # The parent reaped it during these queries. The parent or the kernel is about to store the exit code.
    deadline = monotonic() + _REAPING_SEC
    while True:
        code = _reaped(pidfd, pid) if popen is None else popen.returncode
        if code is not None or monotonic() >= deadline or not (remembers or popen is not None):
            return code
        time.sleep(0.001)


def _reaped(pidfd: int, pid: int) -> int | None:
    info = bytearray(_INFO.pack(_INFO_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:  # not supported by this kernel
        return None
    given, status = _INFO.unpack(info)
    return os.waitstatus_to_exitcode(status) if given & _INFO_EXIT else None


def _waiting_child(pidfd: int, pid: int) -> int | None:
    if not hasattr(os, "P_PIDFD"):
        return None
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:  # a child of another process, or reaped
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _waiting(pidfd: int, pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            owner = os.fstat(file.fileno()).st_uid
            fields = file.read().rpartition(b")")[2].split()
        signal.pidfd_send_signal(pidfd, 0)  # signal 0 checks that `pid` still is that process
    except OSError:
        return None
    # The kernel shows 0 to users that may not see the exit code.
    if fields[0] != b"Z" or owner != os.geteuid():
        return None
    return os.waitstatus_to_exitcode(int(fields[-1]))


def parents_death() -> tuple[int, int, int] | None:
    """Return the signal sent to this process when the thread that started it ends, that thread's process, and the thread.

    None if no signal is known. Programs that request the signal from the kernel, as Celery does, use `ctypes` for it.
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
    """Return whether a thread of a process has ended, after waiting up to `_ENDING_SEC` for it."""
    deadline = monotonic() + _ENDING_SEC
    while os.path.exists(f"/proc/{pid}/task/{thread}"):
        if monotonic() >= deadline:
            return False
        time.sleep(0.001)
    return True


def signal_name(exitcode: int | None) -> str:
    """Format an exit code: ``SIGSEGV`` for a negative one, else ``exit code 3``."""
    if exitcode is None:
        return "an unknown cause"
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


_forked_by = (0, 0)
"""Process and thread of the last fork in this process, or of the fork that created it."""


def _before_fork() -> None:
    global _forked_by
    _forked_by = os.getpid(), threading.get_native_id()


os.register_at_fork(before=_before_fork)
