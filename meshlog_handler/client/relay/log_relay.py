"""LogRelay: a client that forwards to another client, so that no single thread reads from ten thousand processes.

::

    workers of one host -> LogRelay there -> LogClient of the job        relays may form several levels

Each relay groups similar lines; the client merges their counts, ranks and ranges again. Flushes, levels and configuration
propagate down the tree, and their answers propagate up.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Final

from ... import settings
from ...errors import BusyError, ClosedError, MeshlogError, ProtocolError, SettingError
from ...protocol.codec import pack, unpack
from ...protocol.messages import Command, TakeStacks, decode
from ...protocol.ranks import is_rank
from ...protocol.relay_messages import (
    CommandDownstream,
    DefaultDownstream,
    DownstreamInsight,
    DownstreamReached,
    DownstreamReplies,
    FlushDownstream,
    InsightDownstream,
    PassedReceived,
    RankGranted,
    StreamDownstream,
    WindowDownstream,
)
from ...system import at_exit, live_clients
from ...system.diagnostics import diagnose
from ...system.shielded import run_shielded
from ...system.waits import check_timeout, monotonic
from ...transport.channel import Address
from ...transport.run_directory import RunDir
from ...worker.next_client import PATIENCE_SEC, patiently
from ...worker.record_stream import internal_threads
from ..flushes.acknowledgements import Answers
from ..flushes.receipt import FlushReceipt
from ..health.insights import INSIGHT_SEC
from ..health.stack_collector import downstream_stacks
from ..log_client import LogClient
from ..peers.peer import of_ranks
from ..peers.registry import Orphan
from .uplink import Uplink

_LOOK_SEC: Final = 0.5
_ORPHANS_SEC: Final = 2.0
_ENDS_SEC: Final = 10.0
_ENDS_LOOK_SEC: Final = 0.002


class LogRelay:
    """A client that forwards its records to another client.

    Workers join it as they join a `LogClient`: ``install(relay.address)``, `environ`. With one relay for each host, the
    records of a killed worker, and much of the traffic, stay on that host.

    Parameters
    ----------
    address : str
        The address of the upstream client, which may be another relay.
    log_dir : str or None
        Directory on this host for a complete file per rank and stream, and for the journals.
    never, hide : sequence of str
        Regular expressions: lines never grouped here, and lines not passed on.
    tunnel : socket.socket or None
        A connection to the upstream client, if its socket cannot be reached from here. The relay closes it.

    Notes
    -----
    Any thread may call its methods. The upstream client sets the windows, as a part of its window. When the upstream client is
    gone, the relay stops, and its workers continue as without a client. If that is a relay, its replacement has 30 seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        log_dir: str | os.PathLike[str] | None = None,
        never: Sequence[str] = (),
        hide: Sequence[str] = (),
        tunnel: socket.socket | None = None,
    ) -> None:
        self._upstream_address = str(Address.parse(address))
        self._tunnel = tunnel
        self._options = (settings.check_directory(log_dir), tuple(never), tuple(hide))
        self._looker: threading.Thread | None = None
        self._over = threading.Event()
        self._uplink: Uplink | None = None
        self._client: LogClient | None = None
        self._ending = threading.Lock()
        self._adopting: set[str] = set()  # journals of workers that ended, which the upstream client was asked about

    # -- start and stop --------------------------------------------------------------------------------------------

    def start(self) -> LogRelay:
        """Join the upstream client, and open the listener for workers. A second call does nothing.

        After `stop`, it starts again.

        Raises
        ------
        ClosedError
            If the relay had a `tunnel`, which has ended with it: make another `LogRelay`.
        ConnectError
            If the upstream client cannot be joined.
        OSError
            If no private directory can be made here, or `log_dir` cannot be written.
        """
        if self.running:
            return self
        if self._tunnel is not None and self._uplink is not None:
            raise ClosedError("this LogRelay was stopped, and its tunnel is closed: make another LogRelay, with a new tunnel.")
        try:
            run_shielded(self._start)
            return self
        except BaseException:
            self.stop()  # it does nothing unless the relay runs: then Ctrl-C was the cause, not a failed start
            raise

    def _start(self) -> None:
        live_clients.add(self)  # first, and for good: a forked child must not wait for a thread that holds this lock
        with self._ending:
            self._begin()

    def _begin(self) -> None:
        self._over = threading.Event()
        try:
            directory = RunDir(upstream=Address.parse(self._upstream_address).key)
        except BaseException:
            if self._tunnel is not None:
                self._tunnel.close()
            raise
        try:
            uplink = Uplink(self._upstream_address, self._tunnel, directory)
        except BaseException:
            directory.forget()  # there may be journals in it
            raise
        self._open(uplink)

    def _open(self, uplink: Uplink) -> None:
        log_dir, never, hide = self._options
        try:
            client = LogClient(uplink.handler, log_dir=log_dir, never=never, hide=hide, upstream=uplink)
            client.registry.claim = uplink.claim
            client.registry.unsent = _unsent(uplink.directory.take_note())
            self._adopting = set()
            self._uplink, self._client = uplink, client  # before the client starts: workers may wait at its address
            client.start()
        except BaseException:
            self._uplink = self._client = None
            uplink.leave()
            uplink.directory.forget()
            raise
        at_exit.stop_at_exit(self, self.stop)
        uplink.start(self._carry_out, self.stop, partial(self._lost, client, uplink))
        if client.registry.orphans:
            arguments = client, uplink
            self._looker = threading.Thread(target=self._look_for_orphans, args=arguments, name="meshlog-orphans", daemon=True)
            self._looker.start()

    def _look_for_orphans(self, client: LogClient, uplink: Uplink) -> None:
        """Read the journals of workers that ended without a relay, after the one that is gone."""
        internal_threads.add(threading.get_ident())
        over = self._over
        try:
            while not over.is_set() and client.running and client.registry.orphans:
                self._ask_for_orphans(client, uplink)
                over.wait(_LOOK_SEC)
        except ClosedError:
            return  # it was stopped
        finally:
            internal_threads.discard(threading.get_ident())

    def _ask_for_orphans(self, client: LogClient, uplink: Uplink) -> None:
        for orphan in client.registry.ended_orphans():
            self._adopting.add(orphan.journal)
            uplink.claim(orphan.journal, partial(self._adopt, client, orphan))

    def _adopt(self, client: LogClient, orphan: Orphan, granted: RankGranted) -> None:
        client.adopt_ended(orphan.journal, orphan.rank, granted.replaced(pid=granted.pid or orphan.pid))
        self._adopting.discard(orphan.journal)

    def _await_orphans(self, client: LogClient, uplink: Uplink) -> None:
        """Take over the journals of workers that have ended by now: they are removed with the directory."""
        self._ask_for_orphans(client, uplink)
        deadline = monotonic() + _ORPHANS_SEC
        while self._adopting and monotonic() < deadline and threading.get_ident() not in internal_threads:
            time.sleep(_LOOK_SEC / 10)

    def stop(self, timeout: float | None = 10.0) -> None:
        """Flush, pass on pending records, and end. A second call, or a call in a forked child, does nothing.

        Parameters
        ----------
        timeout : float or None
            Seconds for the flush; None is unlimited.
        """
        interrupts: list[BaseException] = []
        try:
            run_shielded(partial(self._stop, timeout, interrupts), interrupts.append)
        except SettingError:
            raise
        except BaseException as interrupt:
            interrupts.append(interrupt)
            run_shielded(partial(self._stop, timeout, interrupts), interrupts.append)  # if the first one has not begun
            raise

    def _stop(self, timeout: float | None, interrupts: list[BaseException]) -> None:
        seconds = check_timeout(timeout)
        with self._ending:
            client, uplink = self._client, self._uplink
            if client is None or uplink is None or not client.running:
                return
            if self.leaves or (uplink.lost and uplink.replaceable):  # the journals of the workers keep what has not arrived
                self._over.set()
                if not uplink.lost:
                    uplink.cut()
                uplink.directory.leave()
                self._hand_on(client, uplink)
                client.cut_off()
            else:
                self._await_orphans(client, uplink)
                self._over.set()
                client.end(seconds, interrupts)
                uplink.leave()
            at_exit.forget(self)

    def report_exit(self, mesh: str, rank: int, exitcode: int) -> None:
        """Report the exit code of a downstream worker (see `LogClient.report_exit`)."""
        if self._client is not None:
            self._client.report_exit(mesh, rank, exitcode)

    @property
    def running(self) -> bool:
        """Whether the relay is started and not stopped, in this process."""
        return self._client is not None and self._client.running

    shows = False
    """Its client passes records on."""

    leaves = False
    """Whether `stop` passes nothing on, and leaves the journals to another relay of this host and user: its tunnel is cut."""

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's descriptors."""
        self._ending = threading.Lock()  # a thread of the parent may have held it
        if self._uplink is not None:
            self._uplink.forget()

    def __enter__(self) -> LogRelay:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What a worker of this host needs to join. Keep it out of command lines and logs."""
        return self.client.address

    def environ(self) -> dict[str, str]:
        """Return a copy of this process's environment, with the settings that a subprocess needs to join."""
        return self.client.environ()

    @property
    def client(self) -> LogClient:
        """The client that reads the workers of this host. Raises `ClosedError` before the start."""
        if self._client is None:
            raise ClosedError("this LogRelay does not run: call start(), or use it in a with statement.")
        return self._client

    # -- commands from the upstream client ---------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        """Carry out a command. Runs on the uplink's thread, and leaves slow work to other threads."""
        client, uplink = self.client, self._uplink
        assert uplink is not None
        with contextlib.suppress(ClosedError):  # this client was stopped meanwhile; the upstream client notices it
            if isinstance(command, RankGranted):
                uplink.granted(command)
            elif isinstance(command, PassedReceived):
                client.on_thread(partial(client.confirm, command))
            elif isinstance(command, FlushDownstream):
                self._flush(client, uplink, command)
            elif isinstance(command, CommandDownstream):
                self._pass_down(client, uplink, command)
            elif isinstance(command, DefaultDownstream):
                client.set_default(command.mesh, decode(command.command, Command))
                # New workers get it from here on. The reply follows the messages about workers that joined before.
                client.on_thread(partial(uplink.send, DownstreamReplies(command.request, ())))
            elif isinstance(command, InsightDownstream):
                self._observe(client, uplink, command)
            elif isinstance(command, WindowDownstream):
                client.switch(command.window, wait=False)
            elif isinstance(command, StreamDownstream):
                client.switch(streaming=command.streaming, chosen=of_ranks(command.ranks), mesh=command.mesh, wait=False)

    def _flush(self, client: LogClient, uplink: Uplink, command: FlushDownstream) -> None:
        def flushed(future: Future[FlushReceipt]) -> None:
            with contextlib.suppress(ClosedError):  # the client was stopped meanwhile
                client.on_thread(partial(answer, future))

        def answer(future: Future[FlushReceipt]) -> None:
            # Runs on the client's thread, which has passed on the last record. It sends a boundary after the sentinel.
            receipt = future.result()
            reached = receipt.acked, receipt.missing, receipt.dead, receipt.dropped
            uplink.send(DownstreamReached(command.request, *reached, client.living_now(), client.stats_now().hidden))
            uplink.append_flush(command.request)

        client.flush_soon(command.timeout, of_ranks(command.ranks)).add_done_callback(flushed)

    def _observe(self, client: LogClient, uplink: Uplink, command: InsightDownstream) -> None:
        def observe() -> None:
            found = pack(())  # without more, the upstream client has the counters
            try:
                # The upstream client waits twice as long for this answer as this client for those of its relays.
                found = client.find(INSIGHT_SEC / 2, command.work).encode()
            except (ClosedError, BusyError) as failure:
                client.error_reports.log("this relay cannot tell how its ranks are", failure)
            finally:
                uplink.send(DownstreamInsight(command.request, found))  # without an answer, it would not be asked again

        if not _start(observe, "meshlog-insight"):
            uplink.send(DownstreamInsight(command.request, pack(())))  # as above

    def _pass_down(self, client: LogClient, uplink: Uplink, command: CommandDownstream) -> None:
        def answered(future: Future[Answers]) -> None:
            errors = {member: each if isinstance(each, str) else None for member, each in future.result().items()}
            replies = tuple((member.rank, error) for member, error in errors.items())  # type: ignore[attr-defined]  # see `Target`
            uplink.send(DownstreamReplies(command.request, replies))

        inner, chosen = decode(command.command, Command), of_ranks(command.ranks)
        if not isinstance(inner, TakeStacks):
            client.send_command_soon(inner, chosen).add_done_callback(answered)
            return

        def take() -> None:
            with contextlib.suppress(ClosedError, BusyError):  # the upstream client names the ranks without an answer
                found = client.stack_collector.collect(chosen, inner.timeout)
                uplink.send(downstream_stacks(command.request, found))

        _start(take, "meshlog-stacks")  # if it is not started, the upstream client names the ranks without an answer

    def _lost(self, client: LogClient, uplink: Uplink) -> None:
        if not uplink.replaceable:
            diagnose("the upstream client of this relay is gone: the relay stops")
            self.stop(1.0)
            return
        why = ""
        try:
            if not patiently(partial(self._go_on, client, uplink), lambda: client.running):
                why = f"the relay upstream is gone, and no other one came within {PATIENCE_SEC:g} s"
        except (OSError, RuntimeError, MeshlogError) as failure:
            why = f"this relay cannot go on below the replacement of the one upstream: {failure}"
        if why:  # its workers keep in their journals what has not arrived
            diagnose(f"{why}: this relay stops")
            self.stop()

    def _go_on(self, client: LogClient, uplink: Uplink) -> bool:
        """Do as another relay that takes the place of this one, below the replacement of the relay upstream.

        The workers join again, and send what has not arrived. Raises `ConnectError` if there is no replacement yet.
        """
        found = Uplink(self._upstream_address, None, uplink.directory)
        with self._ending:
            if self._over.is_set() or not client.running:  # it was stopped meanwhile
                found.leave()
                return True
            uplink.directory.handed_on = True
            self._hand_on(client, uplink)
            if client.running:  # it still uses the directory
                found.leave()
                raise TimeoutError("the thread of its client does not end")
            uplink.directory.take_again()
            self._open(found)
        return True

    def _hand_on(self, client: LogClient, uplink: Uplink) -> None:
        """End without releasing the workers. They look for another relay in this directory."""
        uplink.directory.note = partial(_note, client, uplink)
        with contextlib.suppress(ClosedError):  # it has ended, or the program has closed its descriptors
            client.enqueue_sentinel()
        deadline = monotonic() + _ENDS_SEC
        while client.running and monotonic() < deadline:
            time.sleep(_ENDS_LOOK_SEC)
        live_clients.discard(client)
        at_exit.forget(client)
        uplink.leave_lost()


def _note(client: LogClient, uplink: Uplink) -> bytes:
    """Return for the next relay how many captured lines, by rank, were read and not passed on."""
    unsent = Counter(client.registry.unsent) + Counter(uplink.lines.left())
    return pack(dict(unsent)) if unsent else b""


def _unsent(note: bytes) -> dict[int, int]:
    """Return the captured lines, by rank, that the relay before had read and not passed on, from its note."""
    try:
        found = unpack(note) if note else {}
    except ProtocolError:  # it is cut off
        return {}
    return {rank: count for rank, count in found.items() if is_rank(rank) and type(count) is int} if type(found) is dict else {}


def _start(work: Callable[[], object], name: str) -> bool:
    """Start a thread; return whether one can be started."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True
