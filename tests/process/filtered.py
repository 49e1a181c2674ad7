"""Run a command without some system calls, as in a container with a filter::

python -m tests.process.filtered ERRNO NAME[,NAME...] COMMAND...
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from struct import pack

NUMBERS = {  # of x86-64
    "fallocate": 285,
    "memfd_create": 319,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "preadv2": 327,
    "process_vm_readv": 310,
    "io_uring_setup": 425,
    "statx": 332,
    "close_range": 436,
}
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def refuse(code: int, names: list[str]) -> None:
    """Let these calls fail with an errno, in this process and in its children."""
    steps = [(_LOAD, 0, 0, 0)]
    for name in names:
        steps += [(_EQUAL, 0, 1, NUMBERS[name]), (_RETURN, 0, 0, _FAIL | code)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    program = _Program(len(steps), b"".join(pack("HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "no filter")


if __name__ == "__main__":
    _, failing, refused, *command = sys.argv
    refuse(getattr(errno, failing), refused.split(","))
    os.execvp(command[0], command)
