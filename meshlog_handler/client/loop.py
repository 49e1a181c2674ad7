"""The loop of the client's thread: receive, send commands, group, show, complete flushes, clean up after ended workers.

::

    wait for any descriptor -> read -> items in order of time -> Dispatcher -> sentinels -> Flushes -> receipts

Client thread only, except where a docstring says "any thread".
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..dispatch.dispatcher import Dispatcher
from ..dispatch.pacer import Pacer, count_records
from ..errors import ProtocolError
from ..protocol.messages import Answer, Complete, StacksAnswer, Welcome, reason_of
from ..protocol.relay_messages import DownstreamInsight
from ..system.error_reports import ErrorReports, name_of
from ..system.fork_gate import ForkGate
from ..system.futures import give
from ..system.mailbox import Mailbox
from ..system.waits import monotonic, seconds_until
from ..transport.listener import Listener
from .calls import Calls
from .downstream.relays import Relays
from .flushes.acknowledgements import FIRST_REQUEST, Acknowledgements, is_request
from .flushes.completions import Completions
from .flushes.flushes import Flushes
from .health.insights import Insights
from .jobs.handover import Handover
from .observers.observers import Observers
from .peers.external_peers import ExternalPeers
from .peers.peer import Peer
from .peers.reactor import Reactor
from .peers.registry import Registry
from .peers.stats import PastStats, RankStats, Stats
from .queues.queue_peer import ENDED, QueuePeer
from .queues.queues import Queues
from .reports.drop_reports import DropReports
from .reports.exit_log import ExitLog
from .switches import Switches

if TYPE_CHECKING:
    from .relay.uplink import Uplink

_MAX_ITEMS: Final = 20_000
_ENDS_SEC: Final = 1.0
_PAUSE_SEC: Final = 0.001
_LONGEST_PAUSE_SEC: Final = 0.1


class ClientLoop:
    """The work of a `LogClient` on its thread. `own_token` is the mesh token of the client's own process."""

    def __init__(
        self,
        mailbox: Mailbox,
        *,
        dispatcher: Dispatcher,
        registry: Registry,
        listener: Listener,
        own_token: str,
        keep_journals: bool,
        post: Callable[[Callable[[], Any]], object],
        upstream: Uplink | None,
        observers: Observers,
        handover: Callable[..., Handover],
        error_reports: ErrorReports,
    ) -> None:
        self.dispatcher = dispatcher
        self.observers = observers
        self.error_reports = error_reports
        self.reactor = Reactor(self.error_reports)
        self.handover = handover(self.reactor, removed=self._let_go, relays=upstream is not None)
        first = self.handover.first_number
        requests = itertools.count(FIRST_REQUEST + first - 1)
        self.commands: Acknowledgements[str | bytes | None] = Acknowledgements(
            lambda command: give(command.future, command.answers), requests
        )
        self.ending = False
        self._releasing = False
        self._moves = 0
        self._end_due = float("inf")
        self.past = PastStats()
        self._mailbox = mailbox
        self._registry = registry
        self._listener = listener
        self._keep_journals = keep_journals
        self._flushes = Flushes(self._show_all, self._behind, self.error_reports, first)
        self.relays = Relays(
            self.reactor,
            registry=registry,
            commands=self.commands,
            remember=self.past.remember,
            post=post,
            upstream=upstream,
            dispatcher=dispatcher,
        )
        self.calls = Calls(
            self.reactor,
            registry=registry,
            relays=self.relays,
            flushes=self._flushes,
            commands=self.commands,
            own_token=own_token,
        )
        self._completions = Completions(
            self.reactor, self._flushes, flush=self.calls.flush_known, flush_ended=self.calls.flush_ended, own_token=own_token
        )
        self.insights = Insights(self.reactor, requests)
        self._exit_log = ExitLog(dispatcher, self.insights)
        self._external = ExternalPeers()
        self.gate = ForkGate()  # open only while the loop waits: handlers may write to files that forked children share
        self._drops = DropReports(dispatcher, self.reactor, self.error_reports)
        self._pacer = Pacer(dispatcher, lambda: self.gate.wanted, lambda *what: self._do(self._drops.count, *what))
        self.switches = Switches(
            dispatcher, pacer=self._pacer, reactor=self.reactor, relays=self.relays, registry=registry, numbers=requests
        )
        self.queues = Queues(self.reactor, self._let_go)
        self._sentinels: deque[tuple[Peer, int]] = deque()
        self._began: float | None = None  # when the last wait ended; None during a wait
        self._failures = 0
        self._steps = (
            self.reactor.pipes.expire,
            self._take_queued,
            self._show_some,
            self._acknowledge,
            self._handle_messages,
            self._remove_ended,
            self._report,
            self._exit_log.expire,
            self._catch_up,
            dispatcher.expire,
            self.calls.begin_flushes,
            self._flushes.expire,
            self._keep_listening,
            self.handover.take_over,
            lambda now: self._pacer.show_now(self.relays.unconfirmed.expire(now), now),
            lambda now: dispatcher.end_tick(),
            lambda now: observers.end_tick(bool(self._pacer) or self.reactor.busy),
            lambda now: self.relays.checkpoints.step(now, not self._pacer),
            self._end_in_order,
        )
        observers.attach(self.reactor)
        listener.attend(self.reactor.register, self.reactor.unregister)
        self._open_listener()
        self.reactor.register(mailbox.fd, mailbox.run)

    def run(self) -> None:
        """Work until `end` was called, then close. No failure of a peer or a handler ends this thread."""
        in_a_row = 0
        while self._mailbox.intact and not (self.ending and self._exits_reported()):
            failures = self._failures
            self._do(self._turn)
            # After repeated failures, leave the processor to other threads.
            in_a_row = in_a_row + 1 if self._failures > failures else 0
            if in_a_row:
                time.sleep(min(_PAUSE_SEC * 2 ** min(in_a_row, 10), _LONGEST_PAUSE_SEC))
        self._began = monotonic()
        with self.gate:
            self._close(self._mailbox.intact)

    def busy(self) -> str:
        """Return what has occupied the thread since its last wait; "" during a wait. Any thread."""
        began = self._began
        if began is None:
            return ""
        handler = self.dispatcher.busy
        what = f"handler {name_of(handler)}" if handler is not None else "the client's thread"
        return f"{what} has been busy for {monotonic() - began:.1f} s"

    @property
    def progress(self) -> int:
        """A number that grows as records are received and shown, and as peers are removed. Any thread."""
        return self.dispatcher.shown + self._moves

    @property
    def waiting(self) -> int:
        """The number of records that were logged and are not shown. Any thread, while a handler blocks the client's thread."""
        peers = [peer for peer in tuple(self.reactor.peers) if peer.streaming]
        lines = [item for _, items in tuple(self.reactor.pipes.read) for item in items]
        return self.dispatcher.waiting + self._pacer.waiting + count_records(lines) + sum(peer.waiting() for peer in peers)

    def _do(self, step: Callable[..., object], *args: Any) -> None:
        """Call `step`, and report its failure."""
        try:
            step(*args)
        except BaseException as failure:  # SystemExit, too: this thread serves all ranks
            if self._mailbox.intact:
                self._failures += 1
                self.error_reports.log("the client's thread goes on after a failure", failure)

    # -- the peers, and the end: calls from other threads (see `Mailbox`) -------------------------------------------

    def end(self) -> None:
        """Let `run` return after it has reported the workers that have ended by now."""
        self.reactor.look_for_ends()
        self._end_due = monotonic() + _ENDS_SEC
        self.ending = True

    def release(self) -> None:
        """Release all workers; `run` returns when they have answered and all of their records are shown."""
        self._releasing = True
        self.handover.begin()
        for peer in tuple(self.reactor.peers):
            self.handover.release(peer)

    def add(self, peer: Peer, welcome: Welcome) -> None:
        """Add a peer."""
        peer.streaming = self._registry.streams(peer.mesh)
        peer.sides.keep = self._keep_journals
        peer.sides.defer = self.relays.upstream is not None and peer.rank is not None
        if peer.external:
            self._external.add(peer)
        elif (external := self._external.of_connection(peer)) is not None:
            peer.tail = external.tail
        if peer.sock is not None:
            self._listener.arrived(peer.sock)
        self.reactor.add(peer, welcome)
        self.relays.peer_joined(peer)
        if self._releasing:
            self.handover.release(peer)

    def add_queue(self, peer: QueuePeer) -> None:
        """Add a queue."""
        self.queues.add(peer, streaming=self._registry.streams(peer.mesh))

    def note_exit(self, mesh: str, rank: int | None, exitcode: int) -> None:
        """Note the exit code that the owner of a worker has reported."""
        external = self._external.of_member(mesh, rank)
        if external is not None:
            external.exitcode = exitcode
            self.reactor.ended(external)
            return
        self._exit_log.exited(mesh, rank, exitcode)

    def ranks(self, mesh: str) -> tuple[int, ...]:
        """Return the live ranks of a mesh, here and downstream."""
        members = [member for peer in self.reactor.peers for member in peer.chosen(lambda each: each.mesh == mesh)]
        return tuple(sorted({member.rank for member in members if member.rank is not None}))

    def stats(self) -> Stats:
        """Return the counters of all ranks, past and present."""
        ranks = dict(self.past)
        for peer in self.reactor.peers:
            for rank, stats in peer.counters().items():
                before = ranks.get(rank) or RankStats(rank, stats.pid, alive=False)
                ranks[rank] = before.merged(stats)
        return Stats(ranks, self.relays.hidden, self.dispatcher.shown, self.relays.clocks())

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._began = None
        ready = self.reactor.wait(self._patience())
        if not self._mailbox.intact:  # the program has closed the descriptors: what is ready is no peer
            return
        with self.gate:
            self._began = monotonic()
            self._do(self.reactor.read, ready)
            # One call for each step: a failure in one step does not prevent the others.
            for step in self._steps:
                self._do(step, monotonic())

    # Every step removes an item from its list before it handles it: a failed item is not tried again, and the rest of the
    # list is handled later.

    def _take_queued(self, now: float) -> None:
        if not self._pacer:  # else few records would wait in the queue, and many here
            self.queues.take(now)

    def _show_some(self, now: float) -> None:
        reactor = self.reactor
        full = self.relays.checkpoints.full
        if not self._pacer and not full:
            found = reactor.collect(self._pacer.quota)
            taken, reactor.taken = reactor.taken, 0
            self._moves += len(found.shown)
            self._sentinels += self._pacer.write_only(found.suppressed)
            for era, items in found.earlier.items():
                self._pacer.put(items, now, era)
            self._pacer.put(found.shown, now)
            self.dispatcher.took(taken)
        self._sentinels += self._pacer.show_some(now, len(reactor.peers))
        reactor.pipes.hold(bool(self._pacer) or full)
        reactor.pipes.read_size = self._pacer.read_size
        reactor.inbox_size = self._pacer.inbox_size

    def _acknowledge(self, now: float) -> None:
        """Acknowledge the flushes whose sentinels have arrived."""
        while self._sentinels and not self._pacer:  # the barrier reads lines that are newer than the items in the pacer
            peer, version = self._sentinels.popleft()
            if isinstance(peer, QueuePeer) and version <= ENDED:
                self.queues.shown(peer, version)
                continue
            if is_request(version):
                peer.reached.pop(version, None)
                self.switches.passed(version, peer)
                continue
            try:
                self._barrier(peer, now)
            finally:
                self._flushes.ack(version, peer)

    def _handle_messages(self, now: float) -> None:
        messages = self.reactor.messages
        for _ in range(len(messages)):  # messages that are added again wait for the next turn
            peer, message = messages.popleft()
            if isinstance(message, Answer):
                self._answered(peer, message)
            elif isinstance(message, Complete):
                self._completions.asked(peer, message)
            elif isinstance(message, DownstreamInsight):
                self._answered_insight(peer, message)
            else:
                self.relays.handle(peer, message)

    def _answered_insight(self, relay: Peer, message: DownstreamInsight) -> None:
        try:
            self.insights.answered(relay, message)
        except ProtocolError as failure:
            self.reactor.refuse(relay, failure)

    def _remove_ended(self, now: float) -> None:
        finished = self.reactor.finished
        while finished and not self._pacer:
            peer = finished.popleft()
            self._moves += 1
            try:
                self._finish(peer)
            except BaseException:
                self._note_end(peer)
                raise

    def _report(self, now: float) -> None:
        if self._drops.is_due(now):
            self._drops.report(now)
            self.relays.ask_to_keep_waiting()

    def _catch_up(self, now: float) -> None:
        for peer, version, due in self._unanswerable():
            if now >= due and is_request(version):
                self.reactor.add_sentinel(peer, version)
            elif now >= due:
                self.reactor.catch_up(peer, version)

    def _open_listener(self) -> None:
        for listening in self._listener.sockets:
            self.reactor.register(listening.fileno(), self._accept)

    def _accept(self) -> None:
        if not self._listener.accept():
            for listening in self._listener.sockets:
                self.reactor.unregister(listening.fileno())

    def _keep_listening(self, now: float) -> None:
        self._listener.expire(now)
        if self._listener.opens is not None and now >= self._listener.opens:
            self._listener.opens = None
            self._open_listener()

    def _end_in_order(self, now: float) -> None:
        if not self._releasing or self.ending:
            return
        if not self._pacer:
            self.handover.let_go(now)
        for peer, due in tuple(self.reactor.disconnected.items()):
            if now >= due and not peer.handed_over:
                self.reactor.stop_waiting_for(peer)
        peers = tuple(self.reactor.peers)
        if not self._pacer and all(peer.external for peer in peers):
            for peer in peers:
                self._barrier(peer, now)
            self.end()

    def _let_go(self, peer: Peer) -> None:
        self.past.remember(peer.counters())
        self._note_end(peer)

    def _note_end(self, peer: Peer) -> None:
        self._flushes.mark_ended(peer)
        self.switches.mark_ended(peer)
        self.commands.note_all(peer, "ended before it answered")

    def _patience(self) -> float:
        """Return the seconds until the next work."""
        if (
            self._pacer
            or (self.reactor.busy and not self.relays.checkpoints.full)
            or self.reactor.finished
            or self.reactor.messages
            or self._sentinels
        ):
            return 0.0
        deadlines = (
            self.dispatcher.deadline,
            self.calls.deadline,
            self._flushes.deadline,
            self.reactor.pipes.deadline,
            self._listener.deadline,
            self.handover.due,
            self._exit_log.deadline,
            self.queues.deadline,
            self.relays.deadline,
            *(due for _, _, due in self._unanswerable()),
        )
        first = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if self._releasing and self.reactor.disconnected:
            first = min(self.reactor.disconnected.values(), default=first)
        if self.ending:
            first = self._end_due if first is None else min(first, self._end_due)
        return seconds_until(first)

    def _exits_reported(self) -> bool:
        return not any(peer.ended for peer in self.reactor.peers) or monotonic() >= self._end_due

    def _unanswerable(self) -> list[tuple[Peer, int, float]]:
        """Return (peer, version of a flush or switch, deadline) for live peers without a connection that are waited for."""
        disconnected = self.reactor.disconnected.items()
        return [
            (peer, version, due)
            for peer, due in disconnected
            for version in (*self._flushes.waiting_for(peer), *peer.turns)
            if version > peer.caught_up
        ]

    def _barrier(self, peer: Peer, now: float) -> None:
        """Show what was in the captured pipes of a worker when its sentinel arrived."""
        piped = self._external.of_connection(peer) or peer
        items = self.reactor.pipes.drain(piped, now)
        if piped.streaming:
            self._pacer.show_now(items, now, piped.era)
        else:
            self._pacer.write_only(items)

    def _answered(self, peer: Peer, answer: Answer) -> None:
        if answer.request in peer.turns:  # it has no stream for a sentinel
            self.reactor.turn_now(peer, answer.request)
        elif is_request(answer.request):
            stacks = answer.stacks if isinstance(answer, StacksAnswer) else None
            self.commands.note(answer.request, peer, reason_of(answer.error) if stacks is None else stacks)
        elif peer.external and self._pacer:
            self.reactor.messages.append((peer, answer))  # after the collected items are shown
        else:
            if peer.external:
                self._barrier(peer, monotonic())
            self._flushes.ack(answer.request, peer)

    def _behind(self) -> str:
        """Return why ranks may be missing although they have answered; "" if the client is not the reason."""
        waiting = len(self._pacer)
        return f"its handlers are slow and have not shown {waiting:,} received records" if waiting else ""

    def _show_all(self) -> None:
        self._drops.report(monotonic())
        self.dispatcher.flush()

    def _finish(self, peer: Peer) -> None:
        """Remove a peer after all of its records are shown."""
        if peer not in self.reactor.peers:
            return
        others = (other for other in self.reactor.peers if other.watched and not other.external)
        if peer.external and any(other.pid == peer.pid for other in others):
            return  # removed later: its own connection is not read to the end yet
        self._drops.report_peer(peer)
        self.insights.ended(peer)
        named = peer.left or peer.rank is None or bool(self._flushes.waiting_for(peer))
        self._registry.ended(peer.mesh, peer.rank, named=named)
        keep_journal = self._keep_journals and (bool(peer.mesh) or not peer.left)
        tail = self.relays.take_tail(peer, monotonic()) if peer.relays else []  # before its files are removed
        self.reactor.drop(peer, keep_journal=self.relays.checkpoints.finished(peer, keep_journal=keep_journal))
        self.handover.shown(peer)
        if keep_journal and peer.journal:
            self._registry.keep(peer.hello.rank, peer.journal_files())
        if not peer.relays:
            self.past.remember(peer.counters())
        external = self._external.of_connection(peer)
        if peer.external:
            self._external.remove(peer)
            self._exit_log.external(peer)
        elif peer.relays:
            self._pacer.show_now(tail, monotonic())
            self._exit_log.relay(peer)
        elif external is None or external.pid != peer.pid:
            self._exit_log.worker(peer)
        self._note_end(peer)
        self.relays.peer_ended(peer)
        if external is not None and external.ended:
            self._finish(external)

    def _close(self, intact: bool) -> None:
        """Show what has arrived, complete all pending requests, and close what is `intact`, except the connections."""
        for peer in () if intact else tuple(self.reactor.peers):
            self._do(self.reactor.catch_up, peer, 0)  # from its journal, because the connection is lost
        for step in (
            self.calls.close,
            self._flushes.close,
            lambda: self.commands.close("the client was stopped"),
            self.switches.close,
            self.insights.close,
            self.reactor.pipes.end_lines,
            lambda: self._pacer.show_now(self.relays.unconfirmed.expire(float("inf")), monotonic()),
            self._show_rest,
            lambda: self._drops.report_unsent(self._registry.unsent),
            self.dispatcher.flush,
            self._keep_counters,
            *((self.observers.close, self._listener.close) if intact else ()),
            self.dispatcher.close,
            self.error_reports.close,
        ):
            self._do(step)

    def _show_rest(self) -> None:
        now = monotonic()
        self._pacer.show_all(now)
        while True:
            found = self.reactor.collect(_MAX_ITEMS)
            for era, items in found.earlier.items():
                self._pacer.show_now(items, now, era)
            self._pacer.show_now(found.shown, now)
            self._pacer.write_only(found.suppressed)
            if not self.reactor.busy:
                break

    def _keep_counters(self) -> None:
        self.past = PastStats(self.stats())
        for each in self.past.values():
            each.alive = False

    def hang_up(self) -> None:
        """Close the connections. Only then do workers notice the end, and check whether their journals still exist."""
        self.reactor.close()
        self._listener.hang_up()

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's descriptors."""
        self._listener.forget()
        self.observers.forget()
        self.reactor.forget()
        if self.dispatcher.files is not None:
            self.dispatcher.files.forget()
