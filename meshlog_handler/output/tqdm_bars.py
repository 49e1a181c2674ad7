"""Progress bars that this process draws with tqdm: the lines of a console appear above them, not in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, TextIO

_LOCK_SEC: Final = 0.1


def write_above(stream: TextIO | None, write: Callable[[], None]) -> None:
    """Call `write`, which raises no `Exception`, while the bars on this terminal are cleared."""
    with suppress(Exception), ExitStack() as cleared:  # a bar whose file is closed cannot be drawn again
        with suppress(Exception):  # a lock of the program without a timeout, another version of tqdm
            _clear_bars(stream, cleared)
        write()


def _clear_bars(stream: TextIO | None, cleared: ExitStack) -> None:
    """Clear the bars until the end of `cleared`, unless tqdm's lock is not free soon: its owner may wait for this thread.

    tqdm's other lock, which it shares with other processes, is not needed, and a process that was killed may hold it.
    """
    tqdm: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if getattr(tqdm, "_instances", None):
        known = tqdm.get_lock()
        lock = getattr(known, "th_lock", known)
        if lock.acquire(timeout=_LOCK_SEC):
            cleared.callback(lock.release)
            cleared.enter_context(tqdm.external_write_mode(stream, nolock=True))
