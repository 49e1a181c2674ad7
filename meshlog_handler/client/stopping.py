"""The end of a client as another thread sees it: waits for the client's thread, and reports what a blocked one has not shown.

::

    release the workers -> wait while there is progress -> read the journals of silent workers -> end at once, and report it
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Final

from ..errors import ClosedError
from ..system.diagnostics import diagnose
from ..system.mailbox import Mailbox
from ..system.waits import ended, monotonic
from .loop import ClientLoop

GRACE_SEC: Final = 5.0
_BLOCKED_SEC: Final = 1.0
_LOOK_SEC: Final = 0.05
_COUNT_AGAIN_SEC: Final = 0.01
_MAX_COUNTS: Final = 50


def stopped(
    loop: ClientLoop, mailbox: Mailbox, thread: threading.Thread, timeout: float, interrupts: Sequence[BaseException]
) -> bool:
    """Let the client's thread release the workers and end. Return whether it has ended; if not, a handler blocks it.

    `timeout` is the time without progress, in seconds. After it, silent workers are no longer waited for; after an interrupt,
    nothing is.
    """
    with contextlib.suppress(ClosedError):  # the thread has already ended
        mailbox.put(loop.release)
    progress, since, asked = loop.progress, monotonic(), False
    while not ended(thread, _LOOK_SEC):
        now, before, progress = monotonic(), progress, loop.progress
        if interrupts:  # Ctrl-C: no more waiting
            return _ended_at_once(loop, mailbox, thread, f"interrupted by {type(interrupts[0]).__name__}")
        if progress != before:
            since = now
        elif now - since < timeout:
            continue
        elif asked or loop.dispatcher.busy is not None:
            return _ended_at_once(loop, mailbox, thread, loop.busy() or "the client's thread does not end")
        else:
            with contextlib.suppress(ClosedError):  # it has ended since
                mailbox.put(loop.reactor.stop_waiting_for_silent)
            asked, since, timeout = True, now, GRACE_SEC
    return True


def _ended_at_once(loop: ClientLoop, mailbox: Mailbox, thread: threading.Thread, why: str) -> bool:
    """Show nothing more, and report it. If a handler blocks the thread, close what other processes wait for."""
    loop.dispatcher.abandoned = True
    try:
        waiting = f"{_count_waiting(loop):,} records were not shown"
    except Exception as failure:  # the thread has continued since, or a journal cannot be read
        waiting = f"the records that it has not shown are lost and cannot be counted ({type(failure).__name__}: {failure})"
    finally:
        loop.dispatcher.counted.set()
    diagnose(f"the client is stopped without an orderly end, and {waiting}: {why}")
    with contextlib.suppress(ClosedError):  # the thread has already ended
        mailbox.put(loop.end)
    if ended(thread, _BLOCKED_SEC):
        return True
    loop.reactor.disconnect()
    loop.observers.disconnect()
    return False


def _count_waiting(loop: ClientLoop) -> int:
    """Count until two counts are equal: the thread may be about to enter a handler, or to wait for the count."""
    counts = [loop.waiting]
    for _ in range(_MAX_COUNTS):
        time.sleep(_COUNT_AGAIN_SEC)
        counts.append(loop.waiting)
        if counts[-2] == counts[-1]:
            break
    return counts[-1]
