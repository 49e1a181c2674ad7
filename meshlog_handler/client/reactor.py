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
    `disconnected` are those that live on without a connection; from when on they do not just die.

    Attributes
    ----------
    taken : int
        Bytes of records that were collected since the owner has set it to 0.
    inbox_size : int
        Bytes of a proc's stream that wait to be collected; beyond it, the proc waits.
    """

    def __init__(self, error_reports: ErrorReports | None = None) -> None:
        self.error_reports = error_reports or ErrorReports()
        self._selector = selectors.DefaultSelector()
        self.peers: set[Peer] = set()
        self.messages: deque[tuple[Peer, Message]] = deque()
        self.finished: deque[Peer] = deque()
        self.pipes = OutputPipes(self._selector)
        self._busy: dict[Peer, None] = {}  # in the order in which they became so
        self._paused: set[Peer] = set()
        self._throttled: set[Peer] = set()  # that had to wait since they were asked for patience last
        self.disconnected: dict[Peer, float] = {}
        self.suppressed: list[Item] = []
        self.taken = 0
        self.earlier: dict[Era, list[Item]] = {}
        self.inbox_size = INBOX_SIZE

    def register(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` from `wait` whenever `fd` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, lambda _: ready())

    def unregister(self, fd: int) -> None:
        """Undo `register`."""
        self._selector.unregister(fd)

    def add(self, peer: Peer, welcome: Message) -> None:
        """Begin with a proc, and tell it so. A process has one connection: what it left in an earlier one's journal is read."""
        for former in [each for each in self.disconnected if peer.watched and each.watched and each.pid == peer.pid]:
            former.left = True
            self.ended(former)
        self.peers.add(peer)
        if peer.sock is not None:
            self._selector.register(peer.sock, selectors.EVENT_READ, peer)
        self.pipes.add(peer)
        try:
            peer.pidfd = watch(peer.pid) if peer.watched else -1
            if peer.pidfd >= 0:
                peer.popen = started_here(peer.pid)
                self._selector.register(peer.pidfd, selectors.EVENT_READ, peer)
        except ProcessLookupError:
            self.ended(peer)
        self.send(peer, welcome)

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
            peer = key.data
            try:
                if not isinstance(peer, Peer):
                    peer(mask)
                elif key.fd == peer.pidfd:
                    self.ended(peer)
                else:
                    self._socket_ready(peer, mask)
            except Exception as failure:
                # It would fail again at once: the descriptor is still ready.
                if isinstance(peer, Peer) and peer.sock is not None and key.fd == peer.sock.fileno():
                    self.refuse(peer, failure)
                else:
                    self.error_reports.log("something that is ready cannot be read", failure)

    def collect(self, limit: int) -> list[Item]:
        """Return captured lines, and up to `limit` entries of each proc, in order of time; of much, what came first.

        What is not to be shown is added to `suppressed`, what belongs to an earlier era to `earlier`.
        """
        batches, self.pipes.read = self.pipes.read, []
        left = _MAX_COLLECTED
        if limit * len(self._busy) > left:
            limit = max(left // len(self._busy), _SHARE)
        for peer in tuple(self._busy):
            if left <= 0:
                break
            items: list[Item] = []
            try:
                left -= self._take(peer, limit, items)
            except Exception as failure:  # what was taken of other procs must not be lost
                self.error_reports.log(f"{peer.name} (pid {peer.pid}) sent what cannot be read, which is left out", failure)
                left -= len(items)
            if items:
                batches.append((peer, items))
        shown: list[Item] = []
        for peer, items in batches:
            for part in self._between_turns(peer, items) if peer.turns else (items,):
                if not peer.streaming:
                    self.suppressed += part
                elif peer.era is None:
                    shown += part
                else:
                    self.earlier.setdefault(peer.era, []).extend(part)
        shown.sort(key=itemgetter(0))
        return shown

    def _between_turns(self, peer: Peer, items: list[Item]) -> Iterator[list[Item]]:
        """Yield the parts of `items` between the sentinels of switches; let the proc pass each switch in its place."""
        begin = 0
        for at, (_, template, values) in enumerate(items):
            if template is None and values[1] in peer.turns:
                yield items[begin:at]
                yield self.pipes.drain(peer, monotonic())  # what it printed before
                peer.turn(values[1])
                begin = at
        yield items[begin:]

    def turn_now(self, peer: Peer, number: int) -> None:
        """Let a proc that hears nothing pass a switch here, behind what was read of it and what its pipes hold."""
        sentinel: Item = (time.time(), None, (peer, number))
        self.pipes.read.append((peer, [*self.pipes.drain(peer, monotonic()), sentinel]))

    def _take(self, peer: Peer, limit: int, items: list[Item]) -> int:
        del self._busy[peer]
        before = peer.taken
        try:
            return peer.take(limit, items)
        finally:
            self.taken += peer.taken - before
            if peer.inbox:
                self._busy[peer] = None  # behind the others
            elif peer.ended:
                self._settle(peer)
            if peer in self._paused and peer.inbox_bytes < self.inbox_size // 2:
                self._paused.discard(peer)
                self._watch(peer)

    def send(self, peer: Peer, message: Message) -> bool:
        """Send a message when the proc can take it; False if it has hung up."""
        if peer.sock is None:
            return False
        peer.outbox += frame(CONTROL, message.encode())
        self._write(peer)
        return peer.sock is not None

    def release(self, peer: Peer) -> None:
        """Ask a proc to go on without this client; its `Goodbye` is then its last word. An adopted one hears nothing."""
        if not peer.external:
            peer.released = True
            self.send(peer, Release())

    def do_without_silent(self) -> None:
        """Wait no longer for procs that do not answer: their journals are read."""
        for peer in tuple(self.peers):
            if peer.sock is not None and not peer.external:
                diagnose(f"{peer.name} (pid {peer.pid}) does not answer; what it has logged is read from its journal")
                self.do_without(peer)

    def disconnect(self) -> None:
        """Let the procs learn that nothing more will be shown. Any thread: the client's is held up for ever."""
        for peer in tuple(self.peers):
            peer.replayed = True  # its journal goes now; what it held was counted among what is not shown
            sock = peer.sock
            if sock is not None:
                with contextlib.suppress(OSError):  # it was closed just now
                    sock.shutdown(socket.SHUT_RDWR)

    def do_without(self, peer: Peer) -> None:
        """Wait no longer for the answer of a proc that was released: what it has logged so far is read from its journal."""
        while peer.sock is not None and self._read_socket(peer):
            continue
        if not peer.ended:
            self.pipes.let_go(peer)
            peer.catch_up(_NO_FLUSH)
            peer.left = peer.ended = peer.replayed = True
            self._busy[peer] = None
        self._hang_up(peer)

    def catch_up(self, peer: Peer, version: int) -> None:
        """Answer flush `version` by the journal of a proc that lives without a connection."""
        peer.catch_up(version)
        self._busy[peer] = None

    def bring_sentinel(self, peer: Peer, number: int) -> None:
        """Let a proc that lives without a connection pass a switch behind what its journal holds."""
        caught_up = peer.caught_up
        self.catch_up(peer, number)
        peer.caught_up = caught_up  # flushes are numbered apart

    def drop(self, peer: Peer, *, keep_journal: bool) -> None:
        """Take leave of a proc. Its pipes stay: a grandchild may still write to them."""
        peer.ended = True
        self._hang_up(peer)
        if peer.pidfd >= 0:
            self._selector.unregister(peer.pidfd)
        self._busy.pop(peer, None)
        self._paused.discard(peer)
        self._throttled.discard(peer)
        self.disconnected.pop(peer, None)
        self.peers.discard(peer)
        peer.close(keep_journal=keep_journal)

    def close(self) -> None:
        """Close everything."""
        for peer in tuple(self.peers):
            self.drop(peer, keep_journal=True)
        self.pipes.close()
        self._selector.close()

    def forget(self) -> None:
        """In a forked child: close this process's copies. The registrations are shared with the parent, and left alone."""
        for peer in self.peers:
            if peer.sock is not None:
                peer.sock.close()
            if peer.pidfd >= 0:
                os.close(peer.pidfd)
        self.pipes.forget()
        self._selector.close()

    # -- sockets ---------------------------------------------------------------------------------------------------

    def _socket_ready(self, peer: Peer, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._write(peer)
        if mask & selectors.EVENT_READ and peer.sock is not None:
            self._read_socket(peer)
            if peer.inbox_bytes > self.inbox_size and peer.sock is not None:
                self._paused.add(peer)
                self._throttled.add(peer)
                self._watch(peer)

    def _read_socket(self, peer: Peer) -> bool:
        """Read once; False if there is nothing more now, or ever."""
        assert peer.sock is not None
        try:
            data = peer.sock.recv(min(_READ, self.inbox_size))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._hang_up(peer)
            return False
        try:
            for message in peer.receive(data):
                if isinstance(message, Goodbye):
                    peer.left = True
                    if peer.released:
                        self.pipes.let_go(peer)
                else:
                    self.messages.append((peer, message))
        except ProtocolError as failure:
            self.refuse(peer, failure)
            return False
        finally:
            if peer.inbox:
                self._busy[peer] = None
        if peer.released and peer.left:  # that was its last word
            self._hang_up(peer)
            return False
        return True

    def refuse(self, peer: Peer, failure: Exception) -> None:
        """Close the connection of a proc that does not keep to the rules. What it logged before is shown."""
        text = str(failure) if isinstance(failure, ProtocolError) else describe(failure)
        diagnose(f"{peer.name} (pid {peer.pid}) sends what no proc does; its connection is closed: {text}")
        self._hang_up(peer)

    def ask_to_keep_waiting(self) -> None:
        """Tell procs of which nothing more was read for a while that their wait will end; one that does not listen, once."""
        for peer in self._throttled:
            if not peer.outbox:
                self.send(peer, KeepWaiting())
        self._throttled = {*self._paused, *self._busy}

    def _watch(self, peer: Peer) -> None:
        """Let the selector look for what can be done with the socket now: nothing, read, write or both."""
        if peer.sock is None:
            return
        mask = (0 if peer in self._paused else selectors.EVENT_READ) | (selectors.EVENT_WRITE if peer.outbox else 0)
        registered = peer.sock.fileno() in self._selector.get_map()
        if registered and not mask:
            self._selector.unregister(peer.sock)
        elif registered:
            self._selector.modify(peer.sock, mask, peer)
        elif mask:
            self._selector.register(peer.sock, mask, peer)

    def _write(self, peer: Peer) -> None:
        assert peer.sock is not None
        before = peer.writing
        try:
            with contextlib.suppress(BlockingIOError):  # the rest goes when it can be written
                while peer.outbox:
                    del peer.outbox[: peer.sock.send(peer.outbox)]
        except OSError:  # it is gone: reading tells the same
            peer.outbox.clear()
        peer.writing = bool(peer.outbox)
        if peer.writing != before:
            self._watch(peer)

    def _hang_up(self, peer: Peer) -> None:
        """The connection is over. Without a descriptor that tells of its end, or after a goodbye, so is the proc."""
        if peer.sock is None:
            return
        if peer.sock.fileno() in self._selector.get_map():
            self._selector.unregister(peer.sock)
        peer.sock.close()
        peer.sock = None
        if peer.ended:
            return
        # After an exception, its traceback is on the way through the pipes until the process has ended.
        if peer.pidfd < 0 or (peer.left and not peer.uncaught):
            peer.ended = True
            self._settle(peer)
        else:  # it is about to die; or else it became another program, or has closed its descriptors
            self.disconnected[peer] = monotonic() + _DYING_SEC

    # -- deaths ----------------------------------------------------------------------------------------------------

    def look_for_ends(self) -> None:
        """Note which processes have ended by now, not waiting for `wait` to tell."""
        poll = select.poll()
        watched = {peer.pidfd: peer for peer in self.peers if peer.pidfd >= 0}
        for pidfd in watched:
            poll.register(pidfd, select.POLLIN)
        for pidfd, _ in poll.poll(0):
            self.ended(watched[pidfd])

    def ended(self, peer: Peer) -> None:
        """The process has ended: what it sent is in the socket and the pipes, what it did not send in the journal."""
        if peer.pidfd >= 0:
            peer.exitcode = exit_code(peer.pidfd, peer.pid, peer.popen)
            self._selector.unregister(peer.pidfd)
            peer.close_pidfd()
        while peer.sock is not None and self._read_socket(peer):
            continue
        leash = peer.leash
        if leash is not None and peer.exitcode == -leash.number and has_ended(leash.parent, leash.thread):
            peer.left = True  # its parent has wanted it so
        peer.ended = True
        self._hang_up(peer)
        self._settle(peer)

    def _settle(self, peer: Peer) -> None:
        """Go on with a proc that ended: pipes, then the rest of its stream, then the journal; then it is finished."""
        if peer.inbox:
            self._busy[peer] = None
            return
        if not peer.replayed:
            self.pipes.read_last_words(peer)
            try:
                peer.replay()
            except Exception as failure:  # MemoryError, too: its end must be told all the same
                diagnose(f"the journal of {peer.name} (pid {peer.pid}) cannot be read: {describe(failure)}")
            if peer.inbox:
                self._busy[peer] = None
                return
        if peer in self.peers and peer not in self.finished:
            self.finished.append(peer)
