"""The reception: one selector over sockets, pipes and deaths of all procs. Turns readiness into items. Client's thread alone.

It never blocks on a peer: it reads what is there into bounded buffers, and a peer whose buffer is full waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from ..dispatch.pacer import INBOX_SIZE
from ..errors import ProtocolError
from ..protocol.decode import Item
from ..protocol.frames import CONTROL, frame
from ..protocol.messages import Goodbye, KeepWaiting, Message, Release
from ..system.error_reports import ErrorReports, describe
from ..system.exit_status import exit_code, has_ended, started_here, watch
from ..system.fd_capture import diagnose
from ..system.waits import capped, monotonic
from .output_pipes import OutputPipes
from .peer import Peer

if TYPE_CHECKING:
    from ..dispatch.era import Era

Ready = Sequence[tuple[selectors.SelectorKey, int]]

_READ: Final = 256 * 1024
_DYING_SEC: Final = 0.1
_NO_FLUSH: Final = 0
# Entries collected at a time, of all procs: shown while still in the processor's cache, they cost a sixth less than 16,000
# at a time. And of each proc, so that it is seldom looked at: one of 1,000 is in no cache.
_MAX_COLLECTED: Final = 2048
_SHARE: Final = 64


class Reactor:
    """Knows every proc that joined and has not been taken leave of.

    After `wait` and `read`, `collect` returns what can be shown; the lists `messages` and `finished` hold what else happened.
    `cut_off` are those that live on without a connection; from when on they do not just die.

    Attributes
    ----------
    taken : int
        Bytes of records that were collected since the owner has set it to 0.
    inbox_size : int
        Bytes of a proc's stream that wait to be collected; beyond it, the proc waits.
    """

    def __init__(self, complaints: ErrorReports | None = None) -> None:
        self.complaints = complaints or ErrorReports()
        self._selector = selectors.DefaultSelector()
        self.sources: set[Peer] = set()
        self.messages: deque[tuple[Peer, Message]] = deque()
        self.finished: deque[Peer] = deque()
        self.pipes = OutputPipes(self._selector)
        self._busy: dict[Peer, None] = {}  # in the order in which they became so
        self._paused: set[Peer] = set()
        self._held_up: set[Peer] = set()  # that had to wait since they were asked for patience last
        self.cut_off: dict[Peer, float] = {}
        self.muted: list[Item] = []
        self.taken = 0
        self.earlier: dict[Era, list[Item]] = {}
        self.inbox_size = INBOX_SIZE

    def register(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` from `wait` whenever `fd` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, lambda _: ready())

    def unregister(self, fd: int) -> None:
        """Undo `register`."""
        self._selector.unregister(fd)

    def add(self, source: Peer, welcome: Message) -> None:
        """Begin with a proc, and tell it so. A process has one connection: what it left in an earlier one's journal is read."""
        for former in [each for each in self.cut_off if source.watched and each.watched and each.pid == source.pid]:
            former.left = True
            self.ended(former)
        self.sources.add(source)
        if source.sock is not None:
            self._selector.register(source.sock, selectors.EVENT_READ, source)
        self.pipes.add(source)
        try:
            source.pidfd = watch(source.pid) if source.watched else -1
            if source.pidfd >= 0:
                source.popen = started_here(source.pid)
                self._selector.register(source.pidfd, selectors.EVENT_READ, source)
        except ProcessLookupError:
            self.ended(source)
        self.send(source, welcome)

    @property
    def busy(self) -> bool:
        """Whether something waits to be collected."""
        return bool(self._busy or self.pipes.read)

    def wait(self, timeout: float | None) -> Ready:
        """Wait up to `timeout` seconds for anything; return what can be read."""
        return self._selector.select(capped(timeout))

    def read(self, ready: Ready) -> None:
        """Read what can be read."""
        for key, mask in ready:
            # What an earlier one of this round has closed is not looked at.
            if key.fd not in self._selector.get_map():
                continue
            source = key.data
            try:
                if not isinstance(source, Peer):
                    source(mask)
                elif key.fd == source.pidfd:
                    self.ended(source)
                else:
                    self._socket_ready(source, mask)
            except Exception as failure:
                # It would fail again at once: the descriptor is still ready.
                if isinstance(source, Peer) and source.sock is not None and key.fd == source.sock.fileno():
                    self.refuse(source, failure)
                else:
                    self.complaints.say("something that is ready cannot be read", failure)

    def collect(self, limit: int) -> list[Item]:
        """Return captured lines, and up to `limit` entries of each proc, in order of time; of much, what came first.

        What is not to be shown is added to `muted`, what belongs to an earlier era to `earlier`.
        """
        batches, self.pipes.read = self.pipes.read, []
        left = _MAX_COLLECTED
        if limit * len(self._busy) > left:
            limit = max(left // len(self._busy), _SHARE)
        for source in tuple(self._busy):
            if left <= 0:
                break
            items: list[Item] = []
            try:
                left -= self._take(source, limit, items)
            except Exception as failure:  # what was taken of other procs must not be lost
                self.complaints.say(f"{source.name} (pid {source.pid}) sent what cannot be read, which is left out", failure)
                left -= len(items)
            if items:
                batches.append((source, items))
        shown: list[Item] = []
        for source, items in batches:
            for part in self._between_turns(source, items) if source.turns else (items,):
                if not source.streaming:
                    self.muted += part
                elif source.era is None:
                    shown += part
                else:
                    self.earlier.setdefault(source.era, []).extend(part)
        shown.sort(key=itemgetter(0))
        return shown

    def _between_turns(self, source: Peer, items: list[Item]) -> Iterator[list[Item]]:
        """Yield the parts of `items` between the sentinels of switches; let the proc pass each switch in its place."""
        begin = 0
        for at, (_, template, values) in enumerate(items):
            if template is None and values[1] in source.turns:
                yield items[begin:at]
                yield self.pipes.drain(source, monotonic())  # what it printed before
                source.turn(values[1])
                begin = at
        yield items[begin:]

    def turn_now(self, source: Peer, number: int) -> None:
        """Let a proc that hears nothing pass a switch here, behind what was read of it and what its pipes hold."""
        sentinel: Item = (time.time(), None, (source, number))
        self.pipes.read.append((source, [*self.pipes.drain(source, monotonic()), sentinel]))

    def _take(self, source: Peer, limit: int, items: list[Item]) -> int:
        del self._busy[source]
        before = source.taken
        try:
            return source.take(limit, items)
        finally:
            self.taken += source.taken - before
            if source.inbox:
                self._busy[source] = None  # behind the others
            elif source.ended:
                self._settle(source)
            if source in self._paused and source.inbox_bytes < self.inbox_size // 2:
                self._paused.discard(source)
                self._watch(source)

    def send(self, source: Peer, message: Message) -> bool:
        """Send a message when the proc can take it; False if it has hung up."""
        if source.sock is None:
            return False
        source.outbox += frame(CONTROL, message.encode())
        self._write(source)
        return source.sock is not None

    def release(self, source: Peer) -> None:
        """Ask a proc to go on without this client; its `Goodbye` is then its last word. An adopted one hears nothing."""
        if not source.adopted:
            source.released = True
            self.send(source, Release())

    def do_without_silent(self) -> None:
        """Wait no longer for procs that do not answer: their journals are read."""
        for source in tuple(self.sources):
            if source.sock is not None and not source.adopted:
                diagnose(f"{source.name} (pid {source.pid}) does not answer; what it has logged is read from its journal")
                self.do_without(source)

    def disconnect(self) -> None:
        """Let the procs learn that nothing more will be shown. Any thread: the client's is held up for ever."""
        for source in tuple(self.sources):
            source.replayed = True  # its journal goes now; what it held was counted among what is not shown
            sock = source.sock
            if sock is not None:
                with contextlib.suppress(OSError):  # it was closed just now
                    sock.shutdown(socket.SHUT_RDWR)

    def do_without(self, source: Peer) -> None:
        """Wait no longer for the answer of a proc that was released: what it has logged so far is read from its journal."""
        while source.sock is not None and self._read_socket(source):
            continue
        if not source.ended:
            self.pipes.let_go(source)
            source.catch_up(_NO_FLUSH)
            source.left = source.ended = source.replayed = True
            self._busy[source] = None
        self._hang_up(source)

    def catch_up(self, source: Peer, version: int) -> None:
        """Answer flush `version` by the journal of a proc that lives without a connection."""
        source.catch_up(version)
        self._busy[source] = None

    def bring_sentinel(self, source: Peer, number: int) -> None:
        """Let a proc that lives without a connection pass a switch behind what its journal holds."""
        caught_up = source.caught_up
        self.catch_up(source, number)
        source.caught_up = caught_up  # flushes are numbered apart

    def drop(self, source: Peer, *, keep_journal: bool) -> None:
        """Take leave of a proc. Its pipes stay: a grandchild may still write to them."""
        source.ended = True
        self._hang_up(source)
        if source.pidfd >= 0:
            self._selector.unregister(source.pidfd)
        self._busy.pop(source, None)
        self._paused.discard(source)
        self._held_up.discard(source)
        self.cut_off.pop(source, None)
        self.sources.discard(source)
        source.close(keep_journal=keep_journal)

    def close(self) -> None:
        """Close everything."""
        for source in tuple(self.sources):
            self.drop(source, keep_journal=True)
        self.pipes.close()
        self._selector.close()

    def forget(self) -> None:
        """In a forked child: close this process's copies. The registrations are shared with the parent, and left alone."""
        for source in self.sources:
            if source.sock is not None:
                source.sock.close()
            if source.pidfd >= 0:
                os.close(source.pidfd)
        self.pipes.forget()
        self._selector.close()

    # -- sockets ---------------------------------------------------------------------------------------------------

    def _socket_ready(self, source: Peer, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._write(source)
        if mask & selectors.EVENT_READ and source.sock is not None:
            self._read_socket(source)
            if source.inbox_bytes > self.inbox_size and source.sock is not None:
                self._paused.add(source)
                self._held_up.add(source)
                self._watch(source)

    def _read_socket(self, source: Peer) -> bool:
        """Read once; False if there is nothing more now, or ever."""
        assert source.sock is not None
        try:
            data = source.sock.recv(min(_READ, self.inbox_size))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._hang_up(source)
            return False
        try:
            for message in source.receive(data):
                if isinstance(message, Goodbye):
                    source.left = True
                    if source.released:
                        self.pipes.let_go(source)
                else:
                    self.messages.append((source, message))
        except ProtocolError as failure:
            self.refuse(source, failure)
            return False
        finally:
            if source.inbox:
                self._busy[source] = None
        if source.released and source.left:  # that was its last word
            self._hang_up(source)
            return False
        return True

    def refuse(self, source: Peer, failure: Exception) -> None:
        """Close the connection of a proc that does not keep to the rules. What it logged before is shown."""
        text = str(failure) if isinstance(failure, ProtocolError) else describe(failure)
        diagnose(f"{source.name} (pid {source.pid}) sends what no proc does; its connection is closed: {text}")
        self._hang_up(source)

    def ask_for_patience(self) -> None:
        """Tell procs of which nothing more was read for a while that their wait will end; one that does not listen, once."""
        for source in self._held_up:
            if not source.outbox:
                self.send(source, KeepWaiting())
        self._held_up = {*self._paused, *self._busy}

    def _watch(self, source: Peer) -> None:
        """Let the selector look for what can be done with the socket now: nothing, read, write or both."""
        if source.sock is None:
            return
        mask = (0 if source in self._paused else selectors.EVENT_READ) | (selectors.EVENT_WRITE if source.outbox else 0)
        registered = source.sock.fileno() in self._selector.get_map()
        if registered and not mask:
            self._selector.unregister(source.sock)
        elif registered:
            self._selector.modify(source.sock, mask, source)
        elif mask:
            self._selector.register(source.sock, mask, source)

    def _write(self, source: Peer) -> None:
        assert source.sock is not None
        before = source.writing
        try:
            with contextlib.suppress(BlockingIOError):  # the rest goes when it can be written
                while source.outbox:
                    del source.outbox[: source.sock.send(source.outbox)]
        except OSError:  # it is gone: reading tells the same
            source.outbox.clear()
        source.writing = bool(source.outbox)
        if source.writing != before:
            self._watch(source)

    def _hang_up(self, source: Peer) -> None:
        """The connection is over. Without a descriptor that tells of its end, or after a goodbye, so is the proc."""
        if source.sock is None:
            return
        if source.sock.fileno() in self._selector.get_map():
            self._selector.unregister(source.sock)
        source.sock.close()
        source.sock = None
        if source.ended:
            return
        # After an exception, its traceback is on the way through the pipes until the process has ended.
        if source.pidfd < 0 or (source.left and not source.uncaught):
            source.ended = True
            self._settle(source)
        else:  # it is about to die; or else it became another program, or has closed its descriptors
            self.cut_off[source] = monotonic() + _DYING_SEC

    # -- deaths ----------------------------------------------------------------------------------------------------

    def look_for_ends(self) -> None:
        """Note which processes have ended by now, not waiting for `wait` to tell."""
        poll = select.poll()
        watched = {source.pidfd: source for source in self.sources if source.pidfd >= 0}
        for pidfd in watched:
            poll.register(pidfd, select.POLLIN)
        for pidfd, _ in poll.poll(0):
            self.ended(watched[pidfd])

    def ended(self, source: Peer) -> None:
        """The process has ended: what it sent is in the socket and the pipes, what it did not send in the journal."""
        if source.pidfd >= 0:
            source.exitcode = exit_code(source.pidfd, source.pid, source.popen)
            self._selector.unregister(source.pidfd)
            source.close_pidfd()
        while source.sock is not None and self._read_socket(source):
            continue
        leash = source.leash
        if leash is not None and source.exitcode == -leash.number and has_ended(leash.parent, leash.thread):
            source.left = True  # its parent has wanted it so
        source.ended = True
        self._hang_up(source)
        self._settle(source)

    def _settle(self, source: Peer) -> None:
        """Go on with a proc that ended: pipes, then the rest of its stream, then the journal; then it is finished."""
        if source.inbox:
            self._busy[source] = None
            return
        if not source.replayed:
            self.pipes.read_last_words(source)
            try:
                source.replay()
            except Exception as failure:  # MemoryError, too: its end must be told all the same
                diagnose(f"the journal of {source.name} (pid {source.pid}) cannot be read: {describe(failure)}")
            if source.inbox:
                self._busy[source] = None
                return
        if source in self.sources and source not in self.finished:
            self.finished.append(source)
