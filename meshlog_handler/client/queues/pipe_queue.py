"""Reads many items at once from a queue of `multiprocessing` or ``multiprocess``.

Such a queue is a pipe. Its `get` needs two system calls and three locks for each item, more processor time than all that is
done with a record afterwards. Here, one system call reads what the pipe holds.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from ...system import unpatched

LIBRARIES: Final = ("multiprocessing", "multiprocess")
"""The packages whose queues are pipes."""

_KINDS: Final = ("Queue", "JoinableQueue", "SimpleQueue")
_SIZE: Final = Struct("!i")
_LONG_SIZE: Final = Struct("!Q")
_READ: Final = 64 * 1024


def reader_of(source: Any) -> Callable[[], list[bytes]] | None:
    """Return a function that waits for items of a queue and returns their pickles; None if the queue is of another kind.

    The function raises `OSError` if the queue is closed, and `EOFError` if no process can put anything into it any more.
    """
    library, _, module = type(source).__module__.rpartition(".")
    # The queue has no public names for these. `get` uses them in the same order in every version of Python.
    fields = getattr(source, "__dict__", {})
    pipe, lock, room = (fields.get(name) for name in ("_reader", "_rlock", "_sem"))
    if "get" in fields:  # the program has replaced it
        return None
    if library not in LIBRARIES or module != "queues" or type(source).__name__ not in _KINDS or not pipe or not lock:
        return None

    def read() -> list[bytes]:
        with lock:
            pickles = _read_frames(pipe.fileno())
        if room is not None:
            for _ in pickles:
                room.release()
        return pickles

    return read


def putter_of(source: Any) -> Callable[[object], object]:
    """Return a function that puts an item into a queue that `reader_of` reads, behind what this process has put before.

    It is the queue's `put`, except where greenlets take the place of threads: the thread with which a queue writes to its pipe
    would then be a greenlet of the thread that calls `put` first. There, the function writes to the pipe itself.
    """
    buffer = getattr(source, "_buffer", None)
    if buffer is None or not unpatched.in_use():
        put: Callable[[object], object] = source.put
        return put
    library = sys.modules[type(source).__module__]
    dumps = sys.modules[f"{library.__package__}.reduction"].ForkingPickler.dumps

    def put_directly(item: object) -> None:
        source._sem.acquire()
        if hasattr(source, "_unfinished_tasks"):
            source._unfinished_tasks.release()
        buffer.append(item)
        while buffer:
            with contextlib.suppress(IndexError):  # the queue's own thread has taken it, which expects that others do so
                each = buffer.popleft()
                if each is library._sentinel:  # the program has closed the queue: this is for the queue's own thread
                    buffer.appendleft(each)
                    raise ValueError("the queue is closed")
                try:
                    data = dumps(each)
                except Exception as failure:
                    source._sem.release()
                    source._on_queue_feeder_error(failure, each)
                    continue
                with source._wlock:
                    source._writer.send_bytes(data)

    return put_directly


def loader_of(source: Any) -> Callable[[bytes], object]:
    """Return the function with which a queue unpickles its items."""
    library = type(source).__module__.rpartition(".")[0]
    loads: Callable[[bytes], object] = sys.modules[f"{library}.reduction"].ForkingPickler.loads
    return loads


def _read_frames(fd: int) -> list[bytes]:
    """Wait for data; return complete frames, at least one."""
    data = _read(fd, _READ)
    frames = []
    at = 0
    while at < len(data):
        begin = at + _SIZE.size
        if begin > len(data):
            data += _read_exactly(fd, begin - len(data))
        size = _SIZE.unpack_from(data, at)[0]
        if size == -1:  # it has more than 2 GiB
            begin += _LONG_SIZE.size
            if begin > len(data):
                data += _read_exactly(fd, begin - len(data))
            size = _LONG_SIZE.unpack_from(data, begin - _LONG_SIZE.size)[0]
        at = begin + size
        if at > len(data):
            data += _read_exactly(fd, at - len(data))
        frames.append(data[begin:at])
    return frames


def _read_exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        parts.append(_read(fd, size))
        size -= len(parts[-1])
    return b"".join(parts)


def _read(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    if not data:
        raise EOFError("no process can put anything into it any more")
    return data
