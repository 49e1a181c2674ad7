"""The client's thread: receive, order, group, show; answer flushes; take leave of the dead. Everything here is its alone.

::

    wait for anything -> read -> items in order of time -> Show -> sentinels -> ledger -> receipts
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence, Set
from concurrent.futures import Future
from typing import Any, Final

from ..dispatch.dispatcher import Dispatcher
from ..dispatch.pacer import Pacer, count_records
from ..protocol.decode import Item
from ..protocol.messages import Answer, Command, Welcome
from ..protocol.ranks import spell_ranks
from ..system.error_reports import ErrorReports, name_of
from ..system.exit_status import signal_name
from ..system.fork_gate import ForkGate
from ..system.signals import STOPPING
from ..system.waits import monotonic, seconds_until
from ..transport.listener import Listener
from .exit_reports import ExitedPeer, ExitReport, ExitReports
from .flushes import Flushed, Flushes
from .mailbox import Mailbox
from .orders import Answers, PendingCommands
from .peer import Chosen, Peer, Target
from .reactor import Reactor
from .receipt import FlushReceipt
from .registry import Registry
from .relays import Relays, Upstream
from .stats import PastStats, RankStats, Stats
from .switches import Switches

_MAX_ITEMS: Final = 20_000
_REPORT_SEC: Final = 1.0

_ENDS_SEC: Final = 1.0
_PAUSE_SEC: Final = 0.001
_LONGEST_PAUSE_SEC: Final = 0.1


class ClientLoop:
    """What a `LogClient` does on its thread.

    Parameters
    ----------
    commands : Commands
        Calls from other threads.
    own_token : str
        The mesh token of the client's own process, which takes no orders from here.
    post, above
        See `Relays`.
    """

    def __init__(
        self,
        commands: Mailbox,
        show: Dispatcher,
        registry: Registry,
        rendezvous: Listener,
        own_token: str,
        keep_journals: bool,
        post: Callable[[Callable[[], Any]], object],
        above: Upstream | None,
    ) -> None:
        self.show = show
        self.complaints = ErrorReports()
        self.reception = Reactor(self.complaints)
        self.orders = PendingCommands()
        self.ending = False
        self._releasing = False
        self._moves = 0
        self._end_due = float("inf")
        self.past = PastStats()
        self._commands = commands
        self._registry = registry
        self._rendezvous = rendezvous
        self._own_token = own_token
        self._keep_journals = keep_journals
        self._flushes = Flushes(self._show_all, self._behind, self.complaints)
        self.relays = Relays(
            self.reception, registry, self.orders, self.past.remember, post, above, show.window, lambda: show.hidden
        )
        self._obituaries = ExitReports()
        self._adopted: dict[int | None, Peer] = {}
        self.gate = ForkGate()  # closed but while it waits: handlers may write to what forked children also have
        self._tray = Pacer(show, lambda: self.gate.wanted, lambda *what: self._do(self._left_out, *what))
        self.switches = Switches(show, self._tray, self.reception, self.relays, registry, self.orders)
        self._sentinels: deque[tuple[Peer, int]] = deque()
        self._next_report = 0.0
        self._began: float | None = None  # when the thread last stopped waiting; None while it waits
        self._failures = 0
        self._steps = (
            self._bring_lines,
            self._show_some,
            self._acknowledge,
            self._hear,
            self._take_leave,
            self._report,
            self._tell_ends,
            self._catch_up,
            show.expire,
            self._flushes.expire,
            self._keep_door,
            lambda now: show.end_tick(),
            self._end_in_order,
        )
        self._open_door()
        self.reception.register(commands.fd, commands.run)

    def run(self) -> None:
        """Work until `end` was called, then close. Nothing that a peer or a handler does ends this thread."""
        in_a_row = 0
        while not (self.ending and self._ends_told()):
            failures = self._failures
            self._do(self._turn)
            # One that fails again and again leaves the processor to others.
            in_a_row = in_a_row + 1 if self._failures > failures else 0
            if in_a_row:
                time.sleep(min(_PAUSE_SEC * 2 ** min(in_a_row, 10), _LONGEST_PAUSE_SEC))
        self._began = monotonic()
        with self.gate:
            self._close()

    def busy(self) -> str:
        """Say what the thread has been doing for so long that it does not answer; "" if it waits for work. Any thread."""
        began = self._began
        if began is None:
            return ""
        handler = self.show.busy
        what = f"handler {name_of(handler)}" if handler is not None else "the client's thread"
        return f"{what} has been busy for {monotonic() - began:.1f} s"

    @property
    def progress(self) -> int:
        """A number that grows while records are received and shown, and procs leave. Any thread."""
        return self.show.shown + self._moves

    def unanswered(self, future: Flushed, chosen: Chosen | None, elapsed: float) -> FlushReceipt:
        """Return what a flush has reached so far. Any thread: called where this one is held up, and cannot say it."""
        return self._flushes.unanswered(future, self._chosen(chosen), elapsed, self.busy() or "the client's thread is busy")

    @property
    def waiting(self) -> int:
        """How many records were logged and are not shown. Any thread, while this one is held up by a handler."""
        sources = [source for source in tuple(self.reception.sources) if source.streaming]
        lines = [item for _, items in tuple(self.reception.pipes.read) for item in items]
        return self.show.waiting + self._tray.waiting + count_records(lines) + sum(source.waiting() for source in sources)

    def _chosen(self, chosen: Chosen | None) -> list[Peer]:
        return [source for source in tuple(self.reception.sources) if chosen is None or source.chosen(chosen)]

    def _do(self, step: Callable[..., object], *args: Any) -> None:
        """Do something; say it if it fails."""
        try:
            step(*args)
        except BaseException as failure:  # SystemExit, too: this thread serves all ranks
            self._failures += 1
            self.complaints.say("the client's thread goes on after a failure", failure)

    # -- commands, run here for other threads ---------------------------------------------------------------------

    def end(self) -> None:
        """Let `run` return, when it has told how procs have ended that ended before."""
        self.reception.look_for_ends()
        self._end_due = monotonic() + _ENDS_SEC
        self.ending = True

    def release(self) -> None:
        """Ask all procs to go on without this client; `run` returns when they have answered, and all of it is shown."""
        self._releasing = True
        for source in tuple(self.reception.sources):
            self.reception.release(source)

    def add(self, source: Peer, welcome: Welcome) -> None:
        """Begin with a proc."""
        source.streaming = self._registry.streams(source.mesh)
        source.sides.keep = self._keep_journals
        if source.adopted:
            known = self._adopted.get(source.rank)
            if known is None or known.ended:  # else a proc only says that it has this rank, too
                self._adopted[source.rank] = source
        elif (adopted := self._adopted_as(source)) is not None:
            source.tail = adopted.tail
        if source.sock is not None:
            self._rendezvous.arrived(source.sock)
        # What holds by now, and not at the door: an order that was given meanwhile went to those that were known then.
        self.reception.add(source, welcome.replaced(standing=self._registry.orders_for(source.hello)))
        self.relays.greet(source)
        if self._releasing:
            self.reception.release(source)

    def flush(self, future: Flushed, timeout: float, chosen: Chosen | None) -> None:
        """Send a sentinel round; `future` gets the receipt."""
        members = self._chosen(chosen)
        version = self._flushes.start(members, self._registry.dead(chosen), timeout, future)
        for source in members:
            if source.adopted and not source.ended:
                # It hears nothing. Its answer waits for what was read of its pipes before.
                self.reception.messages.append((source, Answer(version, None)))
            elif not source.ended:
                self.reception.send(source, source.flush_order(version, timeout, chosen))

    def flush_ended(self, future: Flushed) -> None:
        """Let `future` get a receipt when all is shown of the procs that have ended by now."""
        self.reception.look_for_ends()
        self._flushes.start([source for source in self.reception.sources if source.ended], (), float("inf"), future)

    def order(self, order: Command, future: Future[Answers], chosen: Chosen | None) -> None:
        """Send an order round; `future` gets the answers."""
        asked = self._asked(chosen)
        self.orders.start(order.request, [member for members in asked.values() for member in members], future)
        for source, members in asked.items():
            if members and not self.reception.send(source, source.order_for(order, members)):
                for member in members:
                    self.orders.answer(member, Answer(order.request, "its connection is closed"))

    def commit(
        self,
        order: Command,
        future: Future[Answers],
        chosen: Chosen,
        prepared: Set[Hashable],
        standing: tuple[str, Command] | None,
    ) -> bool:
        """End a transaction: send `order`, and let an order stand in a mesh from now on.

        Unless procs have joined that are not `prepared`: then do nothing, and return False.
        """
        if any(member not in prepared for members in self._asked(chosen).values() for member in members):
            return False
        if standing is not None:
            self._registry.stand(*standing)
            self.relays.stand(*standing)
        self.order(order, future, chosen)
        return True

    def _asked(self, chosen: Chosen | None) -> dict[Peer, Sequence[Target]]:
        """Return the procs that an order is for, by the connection that it is sent on."""
        return {
            source: source.chosen(chosen)
            for source in self.reception.sources
            if not source.ended and not source.adopted and source.mesh != self._own_token
        }

    def note_exit(self, mesh: str, rank: int, exitcode: int) -> None:
        """Take the word of a proc's owner on how it ended."""
        adopted = self._adopted.get(rank)
        if adopted is not None and adopted.mesh == mesh:
            adopted.exitcode = exitcode
            self.reception.ended(adopted)
            return
        told = self._obituaries.word(mesh, rank, exitcode)
        if told is not None:
            self._tell(*told)

    def ranks(self, mesh: str) -> tuple[int, ...]:
        """Return the ranks of a mesh that live here or below."""
        members = [member for source in self.reception.sources for member in source.chosen(lambda each: each.mesh == mesh)]
        return tuple(sorted({member.rank for member in members if member.rank is not None}))

    def stats(self) -> Stats:
        """Return the counters of all ranks, past and present."""
        ranks = dict(self.past)
        for source in self.reception.sources:
            for rank, stats in source.counters().items():
                before = ranks.get(rank) or RankStats(rank, stats.pid, alive=False)
                ranks[rank] = before.merged(stats)
        return Stats(ranks, self.relays.hidden, self.show.shown)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._began = None
        ready = self.reception.wait(self._patience())
        with self.gate:
            self._began = monotonic()
            self._do(self.reception.read, ready)
            # Each for itself: what fails in one keeps none of the others from being done.
            for step in self._steps:
                self._do(step, monotonic())

    # Every step takes an item out of its list before it handles it: what fails is not tried again, and what is left in the
    # list has its turn.

    def _bring_lines(self, now: float) -> None:
        self.reception.pipes.expire(now)

    def _show_some(self, now: float) -> None:
        reception = self.reception
        if not self._tray:
            items = reception.collect(self._tray.quota)
            self._moves += len(items)
            muted, reception.muted = reception.muted, []
            taken, reception.taken = reception.taken, 0
            earlier, reception.earlier = reception.earlier, {}
            self._sentinels += self._tray.write_only(muted)
            for era, former in earlier.items():
                self._tray.put(former, now, era)
            self._tray.put(items, now)
            self.show.took(taken)
        self._sentinels += self._tray.show_some(now, len(reception.sources))
        reception.pipes.holding, reception.pipes.read_size = bool(self._tray), self._tray.read_size
        reception.inbox_size = self._tray.inbox_size

    def _acknowledge(self, now: float) -> None:
        """Answer the flushes whose sentinels have come."""
        while self._sentinels and not self._tray:  # what a barrier finds in the pipes is newer than what lies there
            source, version = self._sentinels.popleft()
            if self.orders.is_request(version):
                source.reached.pop(version, None)
                self.switches.passed(version, source)
                continue
            try:
                self._barrier(source, now)
            finally:
                self._flushes.ack(version, source)

    def _hear(self, now: float) -> None:
        messages = self.reception.messages
        for _ in range(len(messages)):  # those that come back are for the next turn
            source, message = messages.popleft()
            if isinstance(message, Answer):
                self._answered(source, message)
            else:
                self.relays.heard(source, message)

    def _take_leave(self, now: float) -> None:
        finished = self.reception.finished
        while finished and not self._tray:
            source = finished.popleft()
            self._moves += 1
            try:
                self._finish(source)
            except BaseException:
                self._flushes.excuse(source)
                self.switches.excuse(source)
                self.orders.excuse(source, "ended before it answered")
                raise

    def _report(self, now: float) -> None:
        if now >= self._next_report:
            self._report_drops(now)
            self.reception.ask_for_patience()

    def _tell_ends(self, now: float) -> None:
        for ended, report in self._obituaries.expire(now):
            self._tell(ended, report)

    def _catch_up(self, now: float) -> None:
        for source, version, due in self._unanswerable():
            if now >= due and self.orders.is_request(version):
                self.reception.bring_sentinel(source, version)
            elif now >= due:
                self.reception.catch_up(source, version)

    def _open_door(self) -> None:
        for listening in self._rendezvous.sockets:
            self.reception.register(listening.fileno(), self._accept)

    def _accept(self) -> None:
        if not self._rendezvous.accept():
            for listening in self._rendezvous.sockets:
                self.reception.unregister(listening.fileno())

    def _keep_door(self, now: float) -> None:
        self._rendezvous.expire(now)
        if self._rendezvous.opens is not None and now >= self._rendezvous.opens:
            self._rendezvous.opens = None
            self._open_door()

    def _end_in_order(self, now: float) -> None:
        if not self._releasing or self.ending:
            return
        for source, due in tuple(self.reception.cut_off.items()):
            if now >= due:
                self.reception.do_without(source)
        sources = tuple(self.reception.sources)
        if not self._tray and all(source.adopted for source in sources):
            for source in sources:
                self._barrier(source, now)
            self.end()

    def _left_out(self, item: Item, failure: BaseException) -> None:
        """Count a record that could not be shown."""
        template = item[1]
        self.complaints.say("a record cannot be shown, and is left out", failure)
        if template is None:
            return
        for source in self.reception.sources:
            if source.rank == template.rank:
                source.count_drop("unreadable", template.levelno, 1)
                return

    def _patience(self) -> float:
        """Return how long there is nothing to do."""
        if self._tray or self.reception.busy or self.reception.finished:
            return 0.0
        deadlines = (
            self.show.deadline,
            self._flushes.deadline,
            self.reception.pipes.deadline,
            self._rendezvous.deadline,
            self._obituaries.deadline,
            *(due for _, _, due in self._unanswerable()),
        )
        first = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if self._releasing and self.reception.cut_off:
            first = min(self.reception.cut_off.values(), default=first)
        if self.ending:
            first = self._end_due if first is None else min(first, self._end_due)
        return seconds_until(first)

    def _ends_told(self) -> bool:
        return not any(source.ended for source in self.reception.sources) or monotonic() >= self._end_due

    def _unanswerable(self) -> list[tuple[Peer, int, float]]:
        """Return what asks procs that live without a connection: who, which flush or switch, when to do without."""
        cut_off = self.reception.cut_off.items()
        return [
            (source, version, due)
            for source, due in cut_off
            for version in (*self._flushes.waiting_for(source), *source.turns)
            if version > source.caught_up
        ]

    def _barrier(self, source: Peer, now: float) -> None:
        """Show what the captured pipes of a proc held when its sentinel arrived."""
        piped = self._adopted_as(source) or source
        items = self.reception.pipes.drain(piped, now)
        if piped.streaming:
            self._tray.show_now(items, now, piped.era)
        else:
            self._tray.write_only(items)

    def _adopted_as(self, source: Peer) -> Peer | None:
        """Return the adopted proc that has the pipes of `source`, a connection of its own that it made."""
        return self._adopted.get(source.rank) if not source.adopted and not source.mesh else None

    def _answered(self, source: Peer, answer: Answer) -> None:
        if answer.request in source.turns:  # it has no stream in which it could answer
            self.reception.turn_now(source, answer.request)
        elif self.orders.is_request(answer.request):
            self.orders.answer(source, answer)
        elif source.adopted and self._tray:
            self.reception.messages.append((source, answer))  # when what was collected has been shown
        else:
            if source.adopted:
                self._barrier(source, monotonic())
            self._flushes.ack(answer.request, source)

    def _behind(self) -> str:
        """Say why ranks are missing although they may have answered; "" if the client is not the reason."""
        waiting = len(self._tray)
        return f"its handlers are slow, and have not shown {waiting:,} records that have arrived" if waiting else ""

    def _show_all(self) -> None:
        self._report_drops(monotonic())
        self.show.flush()

    def _finish(self, source: Peer) -> None:
        """Take leave of a proc of which everything has been shown."""
        if source not in self.reception.sources:
            return
        others = (other for other in self.reception.sources if other.watched and not other.adopted)
        if source.adopted and any(other.pid == source.pid for other in others):
            return  # its own connection is not read to its end; it is taken leave of after that
        self._say_drops(source)
        self._registry.ended(source.mesh, source.rank)
        keep_journal = self._keep_journals and (bool(source.mesh) or not source.left)
        self.reception.drop(source, keep_journal=keep_journal)
        if keep_journal and source.journal:
            self._registry.keep(source.hello.rank, source.journal_files())
        if not source.relays:
            self.past.remember(source.counters())
        self.orders.excuse(source, "ended before it answered")
        adopted = self._adopted_as(source)
        if source.adopted:
            if self._adopted.get(source.rank) is source:
                del self._adopted[source.rank]
            # One that joined as a rank of a launcher (see `execute`) may be ended by that.
            if source.exitcode and not (source.watched and -source.exitcode in STOPPING):
                self._tell(
                    source,
                    ExitReport(logging.ERROR, f"rank {source.rank} (pid {source.pid}) ended by {signal_name(source.exitcode)}"),
                )
        elif source.relays:
            if source.ranks and not source.left:
                gone = f"{source.name} (pid {source.pid}) is gone, and with it {spell_ranks(source.ranks)}"
                self.show.say(logging.ERROR, gone, None, source.pid)
        elif (not source.left or source.uncaught) and (adopted is None or adopted.pid != source.pid):
            self._tell(source, self._obituaries.heard(source, monotonic()))
        self._flushes.excuse(source)
        self.switches.excuse(source)
        self.relays.part(source)
        if adopted is not None and adopted.ended:
            self._finish(adopted)

    def _tell(self, ended: ExitedPeer, report: ExitReport | None) -> None:
        if report is not None:
            self.show.say(report.level, report.text, ended.rank, ended.pid)

    def _say_drops(self, source: Peer) -> None:
        if source.unreported:
            self.show.say(logging.WARNING, source.drop_report(), source.rank, source.pid)

    def _report_drops(self, now: float) -> None:
        self._next_report = now + _REPORT_SEC
        for source in self.reception.sources:
            self._say_drops(source)

    def _close(self) -> None:
        """End: show what has arrived, answer who waits, close everything but the connections."""
        for step in (
            self._flushes.close,
            lambda: self.orders.close("the client was stopped"),
            self.switches.close,
            self.reception.pipes.end_lines,
            self._show_rest,
            self.show.flush,
            self._keep_counters,
            self._rendezvous.close,
            self.show.close,
            self.complaints.close,
        ):
            self._do(step)

    def _show_rest(self) -> None:
        now = monotonic()
        self._tray.show_all(now)
        while True:
            items = self.reception.collect(_MAX_ITEMS)
            earlier, self.reception.earlier = self.reception.earlier, {}
            muted, self.reception.muted = self.reception.muted, []
            for era, former in earlier.items():
                self._tray.show_now(former, now, era)
            self._tray.show_now(items, now)
            self._tray.write_only(muted)
            if not self.reception.busy:
                break

    def _keep_counters(self) -> None:
        self.past = PastStats(self.stats())
        for each in self.past.values():
            each.alive = False

    def hang_up(self) -> None:
        """Close the connections: only now procs learn that the client is gone, and look whether their journal is."""
        self.reception.close()
        self._rendezvous.hang_up()

    def forget(self) -> None:
        """In a forked child: close copies of what is the parent's."""
        self._rendezvous.forget()
        self.reception.forget()
        if self.show.files is not None:
            self.show.files.forget()
