"""LogForwarder: the thread in every worker that ships the journal.

::

    MeshHandler -> journal -> LogForwarder -> socket -> LogClient

The first record after a pause wakes the thread and is shipped at once. Then the thread ships one batch per interval, until a
round finds nothing new.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import deque
from logging.handlers import QueueListener
from typing import Any, Final

from ..protocol.codec import pack
from ..protocol.frames import DROPPED
from ..protocol.immutable import Immutable
from ..protocol.messages import Message
from ..system.diagnostics import diagnose
from ..system.timed_queue import TimedQueue
from ..system.waits import check_timeout, ended
from ..transport.channel import Link
from .record_stream import RecordStream, internal_threads, transport_threads

BATCH_SEC: Final = 0.004
_PAUSE_SEC: Final = 2.0
_PIECE: Final = 256 * 1024
MAX_MESSAGES: Final = 1 << 18
"""Messages of a relay that may wait for its upstream client."""


class Wake(Immutable):
    """Wakes the forwarder; with `stop`, it ships everything and ends."""

    stop: bool = False


_WAKE: Final = Wake()
_STOP: Final = Wake(stop=True)


class LogForwarder(QueueListener):
    """Ships one journal to the client, in order, each byte once.

    Parameters
    ----------
    link : Link
        The connection to the client.

    Notes
    -----
    Any thread, signal handler or finalizer may call `wake` (the queue is a `TimedQueue`), and any thread may call
    `finish`. A forked child must create a new forwarder.
    """

    queue: TimedQueue[Wake]

    def __init__(self, link: Link) -> None:
        super().__init__(TimedQueue())
        self._link = link
        self._reported_drops = 0
        self._generation = 0
        self._stopping = False
        self._paused = False
        self._last: Message | None = None
        self._messages: deque[Message] = deque()
        self._restarting = threading.Lock()
        self.stream: RecordStream

    def attach(self, stream: RecordStream) -> None:
        """Set the stream whose journal is shipped. Call it before `start`."""
        self.stream = stream

    def start(self) -> None:
        """Start the thread. It is named, so that it does not use up a number of the program's ``Thread-N`` names."""
        thread = threading.Thread(target=self._monitor, name="meshlog-forwarder", daemon=True)
        thread.start()
        self._thread = thread

    def wake(self) -> None:
        """Wake the thread; start a new one if it was killed."""
        if self._paused:
            return
        self.stream.idle = False
        thread = self._thread
        if thread is not None and not thread.is_alive() and not (self._stopping or self.stream.client_gone):
            self._restart(thread)
        self.queue.put_nowait(_WAKE)

    def _restart(self, last: threading.Thread) -> None:
        """Start a new thread, once: several calls, even nested ones on one thread, may find that the last one has ended."""
        if self._restarting.acquire(blocking=False):
            try:
                if self._thread is last:
                    self._thread = None
                    with contextlib.suppress(RuntimeError):  # the interpreter is exiting: the client reads the journal
                        self.start()
            finally:
                self._restarting.release()

    def pause(self) -> None:
        """Ship nothing more: the client is gone, and another one may take its place. Returns when the thread has ended."""
        self._paused = True
        self.queue.put_nowait(_STOP)
        self.wait_ended(_PAUSE_SEC)

    def resume(self, link: Link, generation: int) -> None:
        """Ship what was not shown, from `generation` on, to another client."""
        self.wait_ended(_PAUSE_SEC)
        self.queue.clear()
        self._link = link
        self._generation, self._reported_drops = 0, 0
        self.stream.journal.free_shown()
        self.stream.journal.rewind(generation)
        self.stream.client_moves()
        if not self._stopping:
            with contextlib.suppress(RuntimeError):  # no thread can be started: the client reads the journal
                self.start()  # before a logging call may start one
        self._paused = False
        self.wake()

    def enqueue_sentinel(self) -> None:
        """Let the thread ship everything and end. Called by `QueueListener.stop`."""
        self._stopping = True
        self.queue.put_nowait(_STOP)

    def wait_ended(self, timeout: float | None) -> bool:
        """Return whether the thread has ended, after waiting up to `timeout` seconds for it. Any thread but internal ones."""
        seconds = check_timeout(timeout)
        thread = self._thread
        return thread is None or ended(thread, seconds)

    def post(self, message: Message) -> bool:
        """Let the thread send a message, before whatever is appended to the stream from now on. Any thread; never blocks.

        Returns False if too many messages wait, because the client reads nothing.
        """
        if len(self._messages) >= MAX_MESSAGES:
            return False
        self._messages.append(message)
        self.wake()
        return True

    def finish(self, last: Message) -> None:
        """Let the thread ship everything, send `last` and end; do not wait for it. Any thread may call it."""
        self.wake()  # starts a thread if the last one was killed
        self._last = last
        self.enqueue_sentinel()

    def _monitor(self) -> None:
        internal_threads.add(threading.get_ident())
        transport_threads.add(threading.get_ident())
        stream = self.stream
        try:
            while not self._round(stream):
                continue
        except (OSError, EOFError):
            if not self._link.intact and (stream.journal.retains or not self._link.within):
                self._stopping = True
                stream.lose_link()
            elif stream.journal.retains:
                self._paused = True  # the runtime finds the same: see `Membership`
            elif not self._stopping:
                stream.lose_client()
        finally:
            # The next logging call wakes the idle forwarder, and so finds that its thread has ended. Without a client, there is
            # nothing to do for a new one.
            stream.idle = not stream.client_gone
            internal_threads.discard(threading.get_ident())
            transport_threads.discard(threading.get_ident())

    def _round(self, stream: RecordStream) -> bool:
        """Ship, then wait: for the interval if anything was shipped, otherwise for a wake-up. Return True to end."""
        if self.ship():
            try:
                stop = self.queue.get(timeout=BATCH_SEC).stop
            except queue.Empty:
                return False
        else:
            stream.idle = True
            if not self._paused and stream.journal.unshipped(_PIECE) is not None:
                return False
            try:
                stop = self.queue.get(timeout=BATCH_SEC if stream.waits_until_shown else None).stop
            except queue.Empty:
                stop = False
            stream.idle = False
        if stop:
            self.ship()
            if self._last is not None:
                self._link.send_message(self._last)
        return stop

    def handle(self, record: Any) -> None:
        """Send a batch, which is a range of the journal, to the client."""
        self._link.send_data(record)

    def ship(self) -> bool:
        """Ship everything that is unshipped; return whether there was anything."""
        if self._paused:
            return False
        kept, self.stream.kept = self.stream.kept, None
        if kept is not None and self.stream.journal.acknowledge(kept):
            self.stream.made_room()
        any_shipped = self._ship_pieces()
        while self.stream.append_sentinels():
            any_shipped |= self._ship_pieces()
        if self.stream.waits_until_shown and self.stream.journal.free_shown():
            self.stream.made_room()
        return any_shipped

    def _ship_pieces(self) -> bool:
        stream, journal = self.stream, self.stream.journal
        any_shipped = False
        with stream.shipping():
            while (piece := journal.unshipped(_PIECE)) is not None:
                if piece.generation != self._generation:  # earlier segments are free: release waiting calls before sending
                    self._generation = piece.generation
                    stream.made_room()
                # After the piece was taken: with the sentinel of a flush, the client knows all drops before it.
                self._send_drops()
                self.handle(piece)
                any_shipped = True
                if journal.shipped(piece):
                    stream.made_room()
        self._send_drops()
        return any_shipped

    def _send_drops(self) -> None:
        """Send the messages that wait, and the counts of dropped records, if they have changed."""
        while self._messages:
            self._link.send_message(self._messages.popleft())
        drops = self.stream.journal.drops()
        total = sum(count for _, _, count in drops)
        if total != self._reported_drops:
            self._link.send(DROPPED, pack(tuple(drops)))
            self._reported_drops = total


def report_loss(stream: RecordStream) -> None:
    """Report on the original stderr, once, that the client no longer reads the stream."""
    path = stream.journal.path
    # A client that was stopped has removed its journals; a killed client has not.
    which = "the last records" if stream.overwrites else "records that were not shown"
    where = f"{which} are kept in {path}" if path is not None and os.path.exists(path) else "no record is kept"
    here = "WARNING and above come here, unless a handler of this process shows them"
    diagnose(f"the client that shows the logs is gone; {where}; {here}")
