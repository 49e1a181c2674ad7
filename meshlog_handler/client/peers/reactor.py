"""The reactor: one selector for the sockets, pipes and pidfds of all peers. Client thread only.

It never blocks on a peer: it reads available data into bounded buffers, and a peer whose buffer is full waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from ...dispatch.pacer import INBOX_SIZE
from ...errors import ProtocolError
from ...protocol.decode import Item
from ...protocol.frames import CONTROL, frame
from ...protocol.messages import Goodbye, KeepWaiting, Message, Release
from ...system.diagnostics import diagnose
from ...system.error_reports import ErrorReports, describe
from ...system.exit_status import exit_code, has_ended, started_here, watch
from ...system.waits import capped, monotonic
from ...transport.channel import peer_pid
from .output_pipes import OutputPipes
from .peer import Life, Peer

if TYPE_CHECKING:
    from ...dispatch.era import Era

Ready = Sequence[tuple[selectors.SelectorKey, int]]

_READ: Final = 256 * 1024
_EXIT_SEC: Final = 0.1
_NO_FLUSH: Final = 0
MAX_OUTBOX: Final = 16 << 20
"""Bytes that may wait for a peer that does not read them. If more messages follow, its connection is closed."""

MAX_CONNECTED: Final = 64
"""Connections of one process that have joined. A process needs one for each client; the client's own process has no limit."""

MAX_OF_OTHER_NAMESPACES: Final = 4096
"""Connections that have joined of all processes in other pid namespaces, which cannot be told apart."""

# Entries to collect at a time, from all peers: 2,048 fit into the processor's cache and cost a sixth less than 16,000. And
# the least number from each peer, so that peers are visited rarely: with 1,000 peers, none is in the cache.
_MAX_COLLECTED: Final = 2048
_SHARE: Final = 64


@dataclass
class Collected:
    """Items to show by the current settings, items that are not to be shown, and items to show by those of an earlier era."""

    shown: list[Item] = field(default_factory=list)
    suppressed: list[Item] = field(default_factory=list)
    earlier: dict[Era, list[Item]] = field(default_factory=dict)


class Reactor:
    """Keeps every peer that joined and is not removed yet.

    After `wait` and `read`, `collect` returns the items to show. The lists `messages` and `finished` hold the other events.
    `disconnected` are peers that run on without a connection, each with the time from which its exit is no longer expected.
    `taken` counts the bytes of records that were collected since the owner has set it to 0. `inbox_size` is in bytes: a peer
    with more received and not collected bytes is paused.
    """

    def __init__(self, error_reports: ErrorReports | None = None) -> None:
        self.error_reports = error_reports or ErrorReports()
        self._selector = selectors.DefaultSelector()
        self.peers: set[Peer] = set()
        self._connections: Counter[int | None] = Counter()  # by process; 0: all those of other pid namespaces
        self.messages: deque[tuple[Peer, Message]] = deque()
        self.finished: deque[Peer] = deque()
        self.taken = 0
        self.pipes = OutputPipes(self._selector, self.error_reports.tell)
        self._busy: dict[Peer, None] = {}  # oldest first
        self._paused: set[Peer] = set()
        self._throttled: set[Peer] = set()  # paused or busy since the last `KeepWaiting`
        self.disconnected: dict[Peer, float] = {}
        self.inbox_size = INBOX_SIZE
        self.taken_from: set[Peer] | None = None  # for a relay: peers from which something was taken

    def register(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` from `read` whenever `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, lambda _: ready())

    def attend(self, sock: socket.socket, mask: int, ready: Callable[[int], None] | Peer) -> None:
        """Call `ready` from `read` with those events of `mask` that have occurred. 0: no more."""
        registered = sock.fileno() in self._selector.get_map()
        if registered and not mask:
            self._selector.unregister(sock)
        elif registered:
            self._selector.modify(sock, mask, ready)
        elif mask:
            self._selector.register(sock, mask, ready)

    def unregister(self, fd: int) -> None:
        """Undo `register`."""
        self._selector.unregister(fd)

    def check_room(self, sock: socket.socket) -> None:
        """Raise `ProtocolError` if the process of a new connection has too many."""
        pid = peer_pid(sock)
        limit = MAX_CONNECTED if pid else MAX_OF_OTHER_NAMESPACES
        if self._connections[pid] >= limit and pid not in (None, os.getpid()):  # this process forwards those of other hosts
            whose = f"process {pid} has" if pid else "processes of other pid namespaces have"
            raise ProtocolError(
                f"{whose} {limit} connections already, the most that are allowed. A process needs one for each client."
            )

    def add(self, peer: Peer, welcome: Message) -> None:
        """Add a peer and send `welcome`. A process has one connection: the journal of its earlier peer is read to the end."""
        for former in [each for each in self.disconnected if peer.watched and each.watched and each.pid == peer.pid]:
            former.left = not former.relays  # the workers of a relay send again what it has not passed on as a whole
            self.ended(former)
        self.peers.add(peer)
        if self.taken_from is not None and peer.resumed:
            self.taken_from.add(peer)  # its former connection to this relay may have ended before the boundary
        if peer.sock is not None:
            self._connections[peer_pid(peer.sock)] += 1
            self._selector.register(peer.sock, selectors.EVENT_READ, peer)
        self.pipes.add(peer)
        try:
            peer.pidfd = watch(peer.pid) if peer.watched else -1
            if peer.pidfd >= 0:
                peer.popen = started_here(peer.pid)
                self._selector.register(peer.pidfd, selectors.EVENT_READ, peer)
        except ProcessLookupError:
            peer.uncaught = ""  # it was ended and reaped before it had joined: it has logged nothing, and its parent knows why
            self.ended(peer)
        self.send(peer, welcome)

    @property
    def busy(self) -> bool:
        """Whether items wait to be collected."""
        return bool(self._busy or self.pipes.read)

    def wait(self, timeout: float | None) -> Ready:
        """Wait up to `timeout` seconds for events; return them."""
        return self._selector.select(capped(timeout))

    def read(self, ready: Ready) -> None:
        """Handle events."""
        for key, mask in ready:
            # Skip a descriptor that an earlier event of this round has closed.
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
                # Without this, it would fail again at once: the descriptor is still ready.
                if isinstance(peer, Peer) and peer.sock is not None and key.fd == peer.sock.fileno():
                    self.refuse(peer, failure)
                else:
                    self.error_reports.log("a ready descriptor cannot be read", failure)

    def collect(self, limit: int) -> Collected:
        """Return captured lines and up to `limit` entries of each peer, sorted by time; of many, the oldest come first."""
        found = Collected()
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
            except Exception as failure:  # the items of other peers must not be lost
                text = f"{peer.name} (pid {peer.pid}) sent data that cannot be read; it is left out: {describe(failure)}"
                self.error_reports.tell("a process sent data that cannot be read; it is left out", text)
                left -= len(items)
            if items:
                batches.append((peer, items))
        for peer, items in batches:
            for part in self._between_turns(peer, items) if peer.turns else (items,):
                if not peer.streaming:
                    found.suppressed += part
                elif peer.era is None:
                    found.shown += part
                else:
                    found.earlier.setdefault(peer.era, []).extend(part)
        ahead = {id(item): peer.ahead for peer, items in batches if peer.ahead for item in items}
        found.shown.sort(key=(lambda item: item[0] - ahead.get(id(item), 0.0)) if ahead else itemgetter(0))
        return found

    def _between_turns(self, peer: Peer, items: list[Item]) -> Iterator[list[Item]]:
        """Yield the parts of `items` between the sentinels of switches, and apply each switch in its place."""
        begin = 0
        for at, (_, template, values) in enumerate(items):
            if template is None and values[1] in peer.turns:
                yield items[begin:at]
                yield self.pipes.drain(peer, monotonic())  # printed before the switch
                peer.turn(values[1])
                begin = at
        yield items[begin:]

    def take_more(self, peer: Peer) -> None:
        """Let what was put into the inbox of a peer be collected."""
        if peer.inbox:
            self._busy[peer] = None

    def turn_now(self, peer: Peer, number: int) -> None:
        """Let a peer that receives no messages pass a switch here, after all data read so far and left in its pipes."""
        sentinel: Item = (time.time(), None, (peer, number))
        self.pipes.read.append((peer, [*peer.take_read(), *self.pipes.drain(peer, monotonic()), sentinel]))

    def _take(self, peer: Peer, limit: int, items: list[Item]) -> int:
        del self._busy[peer]
        before = peer.taken
        try:
            return peer.take(limit, items)
        finally:
            self.taken += peer.taken - before
            if self.taken_from is not None:
                self.taken_from.add(peer)
            if peer.inbox:
                self._busy[peer] = None  # last in the order
            elif peer.ended:
                self._settle(peer)
            if peer in self._paused and peer.inbox_bytes < self.inbox_size // 2 and not peer.handed_over:
                self._paused.discard(peer)
                self._watch(peer)

    def send(self, peer: Peer, message: Message) -> bool:
        """Send a message when the socket accepts it; False if the connection is closed, as it is if too many bytes wait."""
        if peer.sock is None:
            return False
        if len(peer.outbox) > MAX_OUTBOX:
            self.refuse(peer, ProtocolError(f"it does not read: more than {MAX_OUTBOX >> 20} MiB wait for it"))
            return False
        peer.outbox += frame(CONTROL, message.encode())
        self._write(peer)
        return peer.sock is not None

    def release(self, peer: Peer) -> None:
        """Ask a worker to continue without this client. `Goodbye` is then its last message. External peers get no message."""
        if not peer.external:
            peer.released = True
            self.send(peer, Release())

    def hand_over(self, peer: Peer) -> None:
        """Read no more of a process of a job: the next client reads the rest from its journal."""
        peer.handed_over = True
        self._paused.add(peer)
        self._watch(peer)

    def shut(self, peer: Peer) -> None:
        """Close the connection of a process that is handed over, after everything that it has sent is read."""
        # First no more can be sent. So either its last message is read here, or the process finds the connection closed.
        if peer.sock is not None:
            with contextlib.suppress(OSError):  # closed by the process
                peer.sock.shutdown(socket.SHUT_RDWR)
        while peer.sock is not None and self._read_socket(peer):
            continue

    def stop_waiting_for_silent(self) -> None:
        """Stop waiting for workers that do not answer: their journals are read."""
        for peer in tuple(self.peers):
            if peer.sock is not None and not peer.external:
                # Each is named: it happens once, when the client stops.
                diagnose(f"{peer.name} (pid {peer.pid}) does not answer; what it has logged is read from its journal")
                self.stop_waiting_for(peer)

    def disconnect(self) -> None:
        """Close the connections, so that workers stop waiting. Any thread: the client's thread is blocked for good."""
        for peer in tuple(self.peers):
            peer.forget_journal()  # it is removed next
            sock = peer.sock
            if sock is not None:
                with contextlib.suppress(OSError):  # already closed
                    sock.shutdown(socket.SHUT_RDWR)

    def stop_waiting_for(self, peer: Peer) -> None:
        """Stop waiting for the answer of a released worker: its records so far are read from its journal."""
        while peer.sock is not None and self._read_socket(peer):
            continue
        if not peer.ended:
            self.pipes.drain_and_close(peer)
            peer.catch_up(_NO_FLUSH, self.error_reports.tell)
            peer.left = True
            peer.advance(Life.REPLAYED)
            self._busy[peer] = None
        self._close_socket(peer)

    def catch_up(self, peer: Peer, version: int) -> None:
        """Answer flush `version` from the journal of a worker that runs on without a connection."""
        peer.catch_up(version, self.error_reports.tell)
        self._busy[peer] = None

    def add_sentinel(self, peer: Peer, number: int) -> None:
        """Let a worker that runs on without a connection pass a switch after the records in its journal."""
        caught_up = peer.caught_up
        self.catch_up(peer, number)
        peer.caught_up = caught_up  # flushes have their own numbers

    def drop(self, peer: Peer, *, keep_journal: bool) -> None:
        """Remove a peer. Its pipes stay open, because a grandchild may still write to them."""
        if peer.journal and peer.ended and not peer.left:
            peer.sides.remove_unreferenced()
        peer.advance(Life.REMOVED)
        self._close_socket(peer)
        if peer.pidfd >= 0:
            self._selector.unregister(peer.pidfd)
        self._busy.pop(peer, None)
        self._paused.discard(peer)
        self._throttled.discard(peer)
        if self.taken_from is not None:
            self.taken_from.discard(peer)
        self.disconnected.pop(peer, None)
        self.peers.discard(peer)
        peer.close(keep_journal=keep_journal)

    def close(self) -> None:
        """Remove all peers and close the selector."""
        for peer in tuple(self.peers):
            self.drop(peer, keep_journal=True)
        self.pipes.close()
        self._selector.close()

    def forget(self) -> None:
        """In a forked child: close its copies. The registrations are shared with the parent and stay as they are."""
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
        """Read once; False if there is nothing more, now or ever."""
        assert peer.sock is not None
        try:
            data = peer.sock.recv(min(_READ, self.inbox_size))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_socket(peer)
            return False
        try:
            for message in peer.receive(data):
                if isinstance(message, Goodbye):
                    peer.left = True
                    if peer.released:
                        self.pipes.drain_and_close(peer)
                else:
                    self.messages.append((peer, message))
        except ProtocolError as failure:
            self.refuse(peer, failure)
            return False
        finally:
            if peer.inbox:
                self._busy[peer] = None
        if peer.released and peer.left:  # that was its last message
            self._close_socket(peer)
            return False
        return True

    def refuse(self, peer: Peer, failure: Exception) -> None:
        """Close the connection of a peer that violates the protocol. Records that it sent before are shown."""
        text = str(failure) if isinstance(failure, ProtocolError) else describe(failure)
        text = f"protocol error from {peer.name} (pid {peer.pid}); its connection is closed: {text}"
        self.error_reports.tell("protocol error from a process; its connection is closed", text)
        self._close_socket(peer)

    def ask_to_keep_waiting(self) -> None:
        """Send `KeepWaiting` to throttled workers; at most one to a worker that does not read."""
        for peer in self._throttled:
            if not peer.outbox:
                self.send(peer, KeepWaiting())
        self._throttled = {*self._paused, *self._busy}

    def _watch(self, peer: Peer) -> None:
        """Select the events of the socket that are handled now: none, read, write or both."""
        if peer.sock is None:
            return
        mask = (0 if peer in self._paused else selectors.EVENT_READ) | (selectors.EVENT_WRITE if peer.outbox else 0)
        self.attend(peer.sock, mask, peer)

    def _write(self, peer: Peer) -> None:
        assert peer.sock is not None
        before = peer.writing
        try:
            with contextlib.suppress(BlockingIOError):  # the rest is sent when the socket is writable
                while peer.outbox:
                    del peer.outbox[: peer.sock.send(peer.outbox)]
        except OSError:  # the connection is closed; reading reports it
            peer.outbox.clear()
        peer.writing = bool(peer.outbox)
        if peer.writing != before:
            self._watch(peer)

    def _close_socket(self, peer: Peer) -> None:
        """Close the connection. Without a pidfd, or after a goodbye, the peer has then ended too."""
        if peer.sock is None:
            return
        if peer.sock.fileno() in self._selector.get_map():
            self._selector.unregister(peer.sock)
        pid = peer_pid(peer.sock)
        self._connections[pid] -= 1
        if not self._connections[pid]:
            del self._connections[pid]
        peer.sock.close()
        peer.sock = None
        if peer.ended:
            return
        # After an uncaught exception, its traceback may arrive through the pipes until the process has ended.
        if peer.pidfd < 0 or (peer.left and not peer.uncaught):
            peer.advance(Life.ENDED)
            self._settle(peer)
        else:  # it is about to exit, has executed another program, or has closed its descriptors
            peer.advance(Life.DISCONNECTED)
            self.disconnected[peer] = monotonic() + _EXIT_SEC

    # -- exits -----------------------------------------------------------------------------------------------------

    def look_for_ends(self) -> None:
        """Note the processes that have ended by now, without waiting for their events."""
        poll = select.poll()
        watched = {peer.pidfd: peer for peer in self.peers if peer.pidfd >= 0}
        for pidfd in watched:
            poll.register(pidfd, select.POLLIN)
        for pidfd, _ in poll.poll(0):
            self.ended(watched[pidfd])

    def ended(self, peer: Peer) -> None:
        """Note that a process has ended. Its last data is in the socket and the pipes, unsent records are in the journal."""
        if peer.pidfd >= 0:
            peer.exitcode = exit_code(peer.pidfd, peer.pid, peer.popen)
            self._selector.unregister(peer.pidfd)
            peer.close_pidfd()
        while peer.sock is not None and self._read_socket(peer):
            continue
        parent_death = peer.parent_death
        if (
            parent_death is not None
            and peer.exitcode == -parent_death.number
            and has_ended(parent_death.parent, parent_death.thread)
        ):
            peer.left = True  # its parent intended it
        peer.advance(Life.ENDED)
        self._close_socket(peer)
        self._settle(peer)

    def _settle(self, peer: Peer) -> None:
        """Continue with a peer that ended: read its pipes, the rest of its stream, then its journal; then it is finished."""
        if peer.inbox:
            self._busy[peer] = None
            return
        if peer.life < Life.REPLAYED:
            self.pipes.read_remaining(peer)
            try:
                peer.replay(self.error_reports.tell)
            except Exception as failure:  # even MemoryError: the end of the worker must still be reported
                text = f"the journal of {peer.name} (pid {peer.pid}) cannot be read: {describe(failure)}"
                self.error_reports.tell("the journal of a process cannot be read", text)
            if peer.inbox:
                self._busy[peer] = None
                return
        peer.advance(Life.FINISHED)
        if peer in self.peers and peer not in self.finished:
            self.finished.append(peer)
