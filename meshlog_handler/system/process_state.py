"""The state of a process, from the kernel."""

from __future__ import annotations


def is_stopped(pid: int) -> bool:
    """Return whether a process is suspended by a signal or a debugger. False if the system does not tell (no ``/proc``)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(1024).rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):  # it has ended, or is hidden from this user
        return False
