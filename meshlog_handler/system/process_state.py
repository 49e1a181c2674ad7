"""What the kernel reports of another process: its state, and where it waits. Linux; elsewhere, nothing is known.

Every function reads ``/proc`` by number. A caller that acts on it first checks, with a pidfd, that the process still runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

_STATES: Final = {
    "R": "running",
    "S": "sleeping",
    "D": "uninterruptible sleep",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "ended",
    "X": "ended",
    "I": "idle",
}
SLEEPING: Final = _STATES["S"]
_RUNNING: Final = _STATES["R"]
STOPPED: Final = (_STATES["T"], _STATES["t"])
_UNINTERRUPTIBLE: Final = _STATES["D"]
_MAX_THREADS: Final = 256
_USER: Final = 11
_CHILDREN_SYSTEM: Final = 14
_MAX_NAME: Final = 64


class ProcessState(NamedTuple):
    """The state of a process in words, and the function of the kernel in which it waits; "" if it is not known."""

    state: str
    wait_channel: str


class ProcessTimes(NamedTuple):
    """The parent of a process, its processor seconds, and whether its main thread runs or waits for a core.

    The seconds include those of child processes that have ended.
    """

    parent: int
    seconds: float
    runnable: bool


class Work(NamedTuple):
    """The processor seconds of processes and their children, and whether one of them runs or waits for a core."""

    seconds: float
    runnable: bool


def process_state(pid: int) -> ProcessState:
    """Return the state of a process: that of a thread in uninterruptible sleep, or else that of the main thread."""
    main = thread_state(pid, pid)
    if main.state not in STOPPED:
        for thread in threads(pid):
            found = thread_state(pid, thread)
            if found.state == _UNINTERRUPTIBLE:
                return found
    return main


def thread_state(pid: int, thread: int) -> ProcessState:
    """Return the state of one thread of a process."""
    stat = _read(f"/proc/{pid}/task/{thread}/stat").rpartition(")")[2].split()
    channel = _read(f"/proc/{pid}/task/{thread}/wchan").strip()[:_MAX_NAME]
    return ProcessState(_STATES.get(stat[0], stat[0]) if stat else "", "" if channel == "0" else channel)


def threads(pid: int) -> list[int]:
    """Return the native ids of the threads of a process, of very many only some."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")[:_MAX_THREADS]]
    except OSError:  # it has ended, or there is no /proc
        return []


def process_times() -> dict[int, ProcessTimes]:
    """Return the times of all processes that this user may see."""
    found = {}
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    for pid in (int(name) for name in names if name.isdecimal()):
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if len(fields) > _CHILDREN_SYSTEM:  # else it has ended
            ticks = sum(map(int, fields[_USER : _CHILDREN_SYSTEM + 1]))
            found[pid] = ProcessTimes(int(fields[1]), ticks / os.sysconf("SC_CLK_TCK"), fields[0] == "R")
    return found


def work_of(processes: Mapping[int, Collection[int]], crowded: bool) -> dict[int, Work]:
    """Return the work of the processes of each key, with their children, if one of them has not ended.

    If the host is `crowded`, any thread of a process may be the one that waits for a core; else only its main thread counts.
    """
    table = process_times()
    children: dict[int, list[int]] = {}
    for pid, each in table.items():
        children.setdefault(each.parent, []).append(pid)
    found = {}
    for key, pids in processes.items():
        family = [pid for pid in pids if pid in table]
        for pid in family:
            family += [child for child in children.get(pid, ()) if child not in family]
        if family:
            wants = any(table[pid].runnable or (crowded and _has_running_thread(pid)) for pid in family)
            found[key] = Work(sum(table[pid].seconds for pid in family), wants)
    return found


def _has_running_thread(pid: int) -> bool:
    return any(thread_state(pid, thread).state == _RUNNING for thread in threads(pid))


def is_crowded() -> bool:
    """Return whether more threads want to run here than there are cores: a busy one may then get little of a core."""
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1)
    except OSError:  # the system does not tell
        return False


def handles_signal(pid: int, thread: int, number: int) -> bool:
    """Return whether a handler of the process would run now if `thread` got this signal."""
    masks = _masks(pid, thread)
    return number in masks.get("SigCgt", ()) and number not in masks.get("SigBlk", ())


def is_handling(pid: int, thread: int, number: int) -> bool:
    """Return whether this signal waits for `thread` or for the whole process, or its handler runs on `thread`."""
    masks = _masks(pid, thread)
    return any(number in masks.get(name, ()) for name in ("SigPnd", "ShdPnd", "SigBlk"))


def _masks(pid: int, thread: int) -> dict[str, frozenset[int]]:
    """Return the sets of signals of a thread, by the names that the kernel uses."""
    masks = {}
    for line in _read(f"/proc/{pid}/task/{thread}/status").splitlines():
        name, _, value = line.partition(":")
        if name in ("SigPnd", "ShdPnd", "SigBlk", "SigCgt"):
            mask = int(value, 16)
            masks[name] = frozenset(number for number in range(1, 65) if mask >> number - 1 & 1)
    return masks


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:  # the thread has ended, or this user may not read it
        return ""
