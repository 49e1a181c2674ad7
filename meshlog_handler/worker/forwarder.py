"""LogForwarder: the thread in every proc that ships what the journal holds.

::

    MeshHandler -> journal -> LogForwarder -> socket -> LogClient

It sleeps until the first record after a silence wakes it, ships that at once, and then ships in batches, one per
interval, until a round finds nothing new.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from logging.handlers import QueueListener
from typing import Final

from ..protocol.codec import pack
from ..protocol.frames import DROPPED
from ..protocol.immutable import Immutable
from ..protocol.messages import Message
from ..system.fd_capture import diagnose
from ..transport.channel import Link
from .record_stream import RecordStream, internal_threads, transport_threads

BATCH_SEC: Final = 0.004
_PIECE: Final = 256 * 1024


class Wake(Immutable):
    """Tells the forwarder to look; with `stop`, to ship what there is and end."""

    stop: bool = False


_WAKE: Final = Wake()
_STOP: Final = Wake(stop=True)


class LogForwarder(QueueListener):
    """Ships the ranges of one journal, in order, each byte once.

    `wake` may be called by any thread, signal handler or finalizer (the queue is a `queue.SimpleQueue`); the rest
    belongs to the forwarder's own thread. In a forked child it must be made anew.
    """

    queue: queue.SimpleQueue[Wake]

    def __init__(self, link: Link) -> None:
        super().__init__(queue.SimpleQueue())
        self._link = link
        self._reported_drops = 0
        self._generation = 0
        self._stopping = False
        self._last: Message | None = None
        self._restarting = threading.Lock()
        self.stream: RecordStream

    def attach(self, stream: RecordStream) -> None:
        """Say whose journal it is. Before `start`."""
        self.stream = stream

    def start(self) -> None:
        """Start the thread. It has a name: one without would use up one of the program's own ``Thread-N``."""
        self._thread = threading.Thread(target=self._monitor, name="meshlog-forwarder", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Wake the thread; start another if the last one was killed."""
        self.stream.idle = False
        thread = self._thread
        if thread is not None and not thread.is_alive() and not self._stopping:
            self._restart(thread)
        self.queue.put(_WAKE)

    def _restart(self, ended: threading.Thread) -> None:
        """Start another thread, once: several calls may find that it has ended, also one within another on one thread."""
        if self._restarting.acquire(blocking=False):
            try:
                if self._thread is ended:
                    self._thread = None
                    with contextlib.suppress(RuntimeError):  # the interpreter ends: the client reads the journal
                        self.start()
            finally:
                self._restarting.release()

    def enqueue_sentinel(self) -> None:
        """Ask the thread to ship what there is and end. Called by `QueueListener.stop`."""
        self._stopping = True
        self.queue.put(_STOP)

    def finish(self, last: Message) -> None:
        """Let the thread ship what there is, send `last`, and end. Does not wait for it. Any thread."""
        self.wake()  # there is a thread, if there can be one
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
            if not self._link.intact:
                self._stopping = True
                stream.lose_link()
            elif not self._stopping:
                stream.lose_client()
        finally:
            # Whoever logs next finds an idle forwarder, wakes it, and so notices that its thread has ended.
            stream.idle = True
            internal_threads.discard(threading.get_ident())
            transport_threads.discard(threading.get_ident())

    def _round(self, stream: RecordStream) -> bool:
        """Ship, then wait: for the interval if there was something, for a wake-up if not. True to end."""
        if self.ship():
            try:
                stop = self.queue.get(timeout=BATCH_SEC).stop
            except queue.Empty:
                return False
        else:
            stream.idle = True
            if stream.journal.unshipped(_PIECE) is not None:
                return False
            stop = self.queue.get().stop
            stream.idle = False
        if stop:
            self.ship()
            if self._last is not None:
                self._link.send_message(self._last)
        return stop

    def ship(self) -> bool:
        """Ship all that is unshipped; tell whether there was anything."""
        any_shipped = self._ship_pieces()
        while self.stream.append_sentinels():
            any_shipped |= self._ship_pieces()
        return any_shipped

    def _ship_pieces(self) -> bool:
        stream, journal = self.stream, self.stream.journal
        # First: when a flush is answered, the client knows what was dropped before it.
        drops = journal.drops()
        total = sum(count for _, _, count in drops)
        if total != self._reported_drops:
            self._link.send(DROPPED, pack(tuple(drops)))
            self._reported_drops = total
        any_shipped = False
        with stream.shipping():
            while (piece := journal.unshipped(_PIECE)) is not None:
                if piece.generation != self._generation:  # what came before it is free, and who waits need not wait for this
                    self._generation = piece.generation
                    stream.made_room()
                self._link.send_data(piece)
                any_shipped = True
                if journal.shipped(piece):
                    stream.made_room()
        return any_shipped


def report_loss(stream: RecordStream) -> None:
    """Say on the original stderr, once, that nobody reads the stream any longer."""
    path = stream.journal.path
    # A client that was stopped has taken its journals with it; one that was killed has not.
    where = f"the last records are kept in {path}" if path is not None and os.path.exists(path) else "no record is kept"
    diagnose(f"the client that shows the logs is gone; {where}; WARNING and above come here")
