"""LogRelay: a client that forwards to another, so that no single thread hears ten thousand procs.

::

    procs of one host -> LogRelay there -> LogClient of the job        also several levels of relays

Each groups what is alike before it passes it on; counts, ranks and ranges are merged again above. A flush goes down
and comes up again; so do levels and configurations.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from functools import partial
from types import TracebackType
from typing import Final

from .. import settings
from ..errors import ClosedError
from ..protocol.messages import Command, decode
from ..protocol.relay_messages import (
    CommandDownstream,
    DefaultDownstream,
    DownstreamEnded,
    DownstreamJoined,
    DownstreamReached,
    DownstreamReplies,
    FlushDownstream,
    RankGranted,
    RankRequest,
    StreamDownstream,
    WindowDownstream,
)
from ..system import at_exit, live_clients
from ..system.fd_capture import diagnose
from ..system.waits import Awaited
from ..transport.channel import Address
from .log_client import LogClient
from .peer import Chosen
from .pending_commands import Answers
from .receipt import FlushReceipt
from .relays import plain_counters
from .uplink import Uplink, UpstreamHandler

_CLAIM_SEC: Final = 5.0


class LogRelay:
    """A client whose records are shown by another client, further up.

    Workers join it as they join a `LogClient`: ``install(relay.address)``, `environ`. One for each host keeps the records
    of a killed worker, and much of the traffic, there.

    Parameters
    ----------
    address : str
        Of the client above, which may be another relay.
    log_dir : str or None
        Directory for a complete file per rank and stream, and for the journals, on this side.
    never, hide : sequence of str
        Regular expressions: lines never grouped here, and lines not passed on.
    tunnel : socket.socket or None
        The way to the client above, where its socket cannot be reached from here. Closed by the relay.

    Notes
    -----
    Any thread may call its methods. The windows in which it groups are set from above, a part of those there. When the
    client above is gone, the relay ends, and its procs go on as without a client.
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
        self._claims: dict[int, Callable[[int], None]] = {}
        self._numbers = itertools.count(1)
        self._uplink: Uplink | None = None
        self._client: LogClient | None = None
        self._ending = threading.Lock()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> LogRelay:
        """Join the client above, and open the door for procs. Starting twice is the same as once.

        Raises
        ------
        ConnectError
            If the client above cannot be joined.
        OSError
            If no private directory can be made here, or `log_dir` cannot be written.
        """
        if self._uplink is not None:
            return self
        uplink = Uplink(self._upstream_address, self._tunnel)
        log_dir, never, hide = self._options
        client = LogClient(UpstreamHandler(uplink.stream), log_dir=log_dir, never=never, hide=hide, upstream=self)
        client.registry.claim = self._claim_and_wait
        try:
            client.start()
        except BaseException:
            uplink.leave()
            raise
        self._uplink, self._client = uplink, client
        live_clients.add(self)
        at_exit.stop_at_exit(self, self.stop)
        uplink.start(self._carry_out, self.stop, self._lost)
        return self

    def stop(self, timeout: float = 10.0) -> None:
        """Flush, pass on what is pending, and end. Stopping twice, or in a forked child, does nothing.

        Parameters
        ----------
        timeout : float
            Seconds for the flush.
        """
        with self._ending:
            client, uplink = self._client, self._uplink
            if client is None or uplink is None or not client.running:
                return
            client.stop(timeout)
            uplink.leave()
            live_clients.discard(self)
            at_exit.forget(self)

    def report_exit(self, mesh: str, rank: int, exitcode: int) -> None:
        """Tell how a proc below ended (see `LogClient.report_exit`)."""
        if self._client is not None:
            self._client.report_exit(mesh, rank, exitcode)

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped, in this process."""
        return self._client is not None and self._client.running

    shows = False
    """Its client passes on what it gets."""

    def forget(self) -> None:
        """In a forked child: close copies of what is the parent's."""
        if self._uplink is not None:
            self._uplink.forget()

    def __enter__(self) -> LogRelay:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What a worker of this host needs to join. Keep it out of command lines and logs."""
        return self._running_client.address

    def environ(self) -> dict[str, str]:
        """Return a copy of this process's environment, with what a subprocess needs to join."""
        return self._running_client.environ()

    @property
    def _running_client(self) -> LogClient:
        if self._client is None:
            raise ClosedError("this LogRelay does not run: call start(), or use it in a with statement.")
        return self._client

    # -- what goes up (see `Above`) ----------------------------------------------------------------------------------

    def joined(self, message: DownstreamJoined) -> None:
        """Tell of a proc that joined."""
        if self._uplink is not None:
            self._uplink.send(message)

    def ended(self, message: DownstreamEnded) -> None:
        """Tell of a proc that ended."""
        if self._uplink is not None:
            self._uplink.send(message)

    def claim(self, granted: Callable[[int], None]) -> None:
        """Ask for a rank."""
        self._ask_for_rank(granted)

    def _ask_for_rank(self, granted: Callable[[int], None]) -> int:
        request = next(self._numbers)
        self._claims[request] = granted
        if self._uplink is not None:
            self._uplink.send(RankRequest(request))
        return request

    def _claim_and_wait(self) -> int | None:
        """Ask for a rank for who stands at the door; None if there is no answer: then it gets one of our own."""
        answer: Future[int] = Awaited()
        request = self._ask_for_rank(answer.set_result)
        try:
            return answer.result(_CLAIM_SEC)
        except NotInTime:
            self._claims.pop(request, None)
            diagnose("the client above gave no rank for a newcomer, which gets one that another proc may bear, too")
            return None

    # -- what comes down ---------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        """Carry out an order. On the uplink's thread; what takes time goes on elsewhere."""
        client, uplink = self._running_client, self._uplink
        assert uplink is not None
        if isinstance(command, RankGranted):
            granted = self._claims.pop(command.request, None)
            if granted is not None:
                granted(command.rank)
            return
        with contextlib.suppress(ClosedError):  # the client here was stopped meanwhile, and above one sees it go
            if isinstance(command, FlushDownstream):
                self._flush(client, uplink, command)
            elif isinstance(command, CommandDownstream):
                self._pass_down(client, uplink, command)
            elif isinstance(command, DefaultDownstream):
                client.set_default(command.mesh, decode(command.command, Command))
                # From here on every proc is let in with it. Behind what was said of those that were let in before.
                client.on_thread(partial(uplink.send, DownstreamReplies(command.request, ())))
            elif isinstance(command, WindowDownstream):
                client.switch(command.window, wait=False)
            elif isinstance(command, StreamDownstream):
                client.switch(streaming=command.streaming, chosen=_of_ranks(command.ranks), mesh=command.mesh, wait=False)

    def _flush(self, client: LogClient, uplink: Uplink, command: FlushDownstream) -> None:
        def flushed(future: Future[FlushReceipt]) -> None:
            # On the client's thread, which has just passed on the last record.
            receipt = future.result()
            stats = client.stats_now()
            reached = receipt.acked, receipt.missing, receipt.dead, receipt.dropped
            uplink.send(DownstreamReached(command.request, *reached, plain_counters(stats), stats.hidden))
            uplink.append_flush(command.request)

        client.flush_soon(command.timeout, _of_ranks(command.ranks)).add_done_callback(flushed)

    def _pass_down(self, client: LogClient, uplink: Uplink, command: CommandDownstream) -> None:
        def answered(future: Future[Answers]) -> None:
            answers = future.result().items()
            told = tuple((member.rank, error) for member, error in answers)  # type: ignore[attr-defined]  # see `Member`
            uplink.send(DownstreamReplies(command.request, told))

        client.send_command_soon(decode(command.command, Command), _of_ranks(command.ranks)).add_done_callback(answered)

    def _lost(self) -> None:
        diagnose("the client above this relay is gone: the relay ends")
        self.stop(1.0)


def _of_ranks(ranks: Sequence[int] | None) -> Chosen | None:
    if ranks is None:
        return None
    wanted = frozenset(ranks)
    return lambda member: member.rank in wanted
