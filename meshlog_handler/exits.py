"""How a process ended, asked of the kernel."""

from __future__ import annotations

import os
import signal


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


def child_exitcode(pidfd: int) -> int | None:
    """Return the exit code (negative: the signal) of a child that ended, left to its owner to reap; None for strangers."""
    if pidfd < 0 or not hasattr(os, "P_PIDFD"):
        return None
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


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
