"""Hosts from which the client's socket cannot be reached: a relay there, and a tunnel of the engine's own messages.

::

    workers -> HostRelay, in a process of the engine there -- take, give --> Tunnel, in the client's process -> LogClient

An engine carries bytes both ways, and need not know what they are: they are those of a Unix socket's connection, with
its challenge, its frames and its end.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from types import TracebackType
from typing import Final

from ..client.relay import LogRelay
from ..errors import ClosedError, ConnectError
from ..system.diagnostics import diagnose
from ..system.waits import Awaited, capped
from ..transport.channel import HANDSHAKE_SEC, Address, dial, set_kernel_timeout
from ..worker.record_stream import internal_threads

_PIECE: Final = 256 * 1024
_WAIT_SEC: Final = 1.0
_END_SEC: Final = 3.0


def reachable(address: str) -> bool:
    """Tell whether this process can join the client at `address` directly: it is on the same machine, and may."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            dial(Address.parse(address), sock)
        except OSError:
            return False
        return True


class HostRelay:
    """A relay on a host that the client's socket does not reach. Any thread may call its methods.

    Parameters
    ----------
    client_address : str
        Of the client, as `LogClient.address` returns it. Its key does not cross the tunnel.
    log_dir : str or None
        Directory, on this host, for a complete file per rank and stream.
    hide : sequence of str
        Regular expressions: lines that are not passed on.
    """

    def __init__(self, client_address: str, *, log_dir: str | None = None, hide: Sequence[str] = ()) -> None:
        self._end, theirs = socket.socketpair()
        self._relay = LogRelay(client_address, log_dir=log_dir, hide=hide, tunnel=theirs)
        self._started: Future[None] = Awaited()
        self._giving = threading.Lock()
        threading.Thread(target=self._start, name="meshlog-host-relay", daemon=True).start()

    def _start(self) -> None:
        try:
            self._relay.start()
        except BaseException as error:
            self._started.set_exception(error)
        else:
            self._started.set_result(None)

    @property
    def address(self) -> str:
        """What workers of this host `install`. Waits until the tunnel carries.

        Raises
        ------
        ConnectError
            If it does not within 20 seconds: nobody calls `take` and `give`, or the client is gone.
        """
        try:
            self._started.result(2 * HANDSHAKE_SEC)
        except NotInTime:
            raise ConnectError(
                "the relay's tunnel carries nothing. Is there a Tunnel in the client's process that takes and gives?"
            ) from None
        return self._relay.address

    def take(self, timeout: float) -> bytes:
        """Return bytes for the client; b"" if there are none within `timeout` seconds.

        Raises
        ------
        ClosedError
            When the relay has ended, and everything was taken.
        """
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        if not poll.poll(capped(timeout) * 1000):
            return b""
        try:
            data = self._end.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            raise ClosedError("the relay has ended")
        return data

    def give(self, data: bytes) -> None:
        """Take in bytes from the client; `ClosedError` when the relay has ended."""
        try:
            with self._giving:
                self._end.sendall(data)
        except OSError:
            raise ClosedError("the relay has ended") from None

    def report_exit(self, mesh: str, rank: int, exitcode: int) -> None:
        """Tell how a proc of this host ended (see `LogClient.report_exit`)."""
        self._relay.report_exit(mesh, rank, exitcode)

    def close(self, timeout: float = 10.0) -> None:
        """Pass on what is pending, and end: `take` gives the rest, and then raises `ClosedError`."""
        self._relay.stop(timeout)


class Tunnel:
    """The client's end of a `HostRelay`'s tunnel.

    Parameters
    ----------
    client_address : str
        Of the client, which runs in this process.
    take : Callable[[float], bytes]
        Calls `HostRelay.take` over there. Called over and over, on a thread of the tunnel's.
    give : Callable[[bytes], object]
        Calls `HostRelay.give` over there. Called on another thread of the tunnel's.

    Notes
    -----
    Whatever `take` or `give` raises ends the tunnel: to the client, the relay and all below it are gone.
    """

    def __init__(self, client_address: str, take: Callable[[float], bytes], give: Callable[[bytes], object]) -> None:
        self._address = Address.parse(client_address)
        self._take = take
        self._give = give
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._threads: list[threading.Thread] = []
        self._ended = False

    def start(self) -> Tunnel:
        """Connect with the client, and begin to carry; `OSError` if the client is gone."""
        dial(self._address, self._sock)
        set_kernel_timeout(self._sock, 0)
        for carry, name in ((self._carry_up, "up"), (self._carry_down, "down")):
            thread = threading.Thread(target=self._until_it_ends, args=(carry,), name=f"meshlog-tunnel-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def wait(self, timeout: float) -> None:
        """Wait up to so many seconds for the relay's own end, with all that it had to say. Before `close`."""
        self._threads[0].join(capped(timeout))

    def close(self) -> None:
        """End; waits some seconds for what is being carried."""
        self._hang_up()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_END_SEC)
        self._sock.close()

    def __enter__(self) -> Tunnel:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _until_it_ends(self, carry: Callable[[], None]) -> None:
        internal_threads.add(threading.get_ident())  # what an engine logs when it is called must not be carried by it
        try:
            carry()
        except (ClosedError, OSError):
            return  # in order, from one side or the other: the client sees the end of the connection
        except Exception as failure:  # whatever engines raise
            diagnose(f"the tunnel to a relay has ended: {type(failure).__name__}: {failure}")
        finally:
            self._hang_up()
            internal_threads.discard(threading.get_ident())

    def _carry_up(self) -> None:
        while not self._ended:
            self._sock.sendall(self._take(_WAIT_SEC))

    def _carry_down(self) -> None:
        while data := self._sock.recv(_PIECE):
            self._give(data)

    def _hang_up(self) -> None:
        self._ended = True
        with contextlib.suppress(OSError):  # the client was faster
            self._sock.shutdown(socket.SHUT_RDWR)
