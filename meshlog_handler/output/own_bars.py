"""Progress bars that this process draws with tqdm: the lines of a console appear above them, not in them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any, Final, TextIO

_LOCK_SEC: Final = 0.1


def write_above(stream: TextIO | None, write: Callable[[], None]) -> None:
    """Call `write`, which raises no `Exception`, while the bars on this terminal are cleared.

    If tqdm's lock is not free soon, the bars stay: a thread that holds it may wait for this one. tqdm's other lock, which it
    shares with other processes, is not needed, and a process that was killed may hold it.
    """
    tqdm: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    left = [write]
    if getattr(tqdm, "_instances", None):
        # A lock of the program without a timeout, another version of tqdm, a bar whose file is closed.
        with contextlib.suppress(Exception):
            known = tqdm.get_lock()
            lock = getattr(known, "th_lock", known)
            if lock.acquire(timeout=_LOCK_SEC):
                try:
                    with tqdm.external_write_mode(stream, nolock=True):
                        left.pop()()
                finally:
                    lock.release()
    for each in left:
        each()
