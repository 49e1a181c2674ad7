"""Relays on hosts that cannot reach the client's socket, and tunnels through what reaches them.

::

    workers -> HostRelay, in a process there -- take, give --> Tunnel, in the client's process -> LogClient

An engine, or ssh, transfers bytes in both directions without interpreting them. They are the bytes of a Unix socket
connection, from the challenge to the end of file.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from types import TracebackType
from typing import Final

from ...errors import ClosedError, ConnectError
from ...system import at_exit
from ...system.descriptors import is_readable
from ...system.diagnostics import diagnose
from ...system.futures import Awaited
from ...system.waits import capped, check_timeout
from ...transport.channel import HANDSHAKE_SEC, Address, dial, set_kernel_timeout
from ...worker.record_stream import internal_threads
from ..log_client import LogClient
from .log_relay import LogRelay

_PIECE: Final = 256 * 1024
_WAIT_SEC: Final = 1.0
_END_SEC: Final = 3.0


def reachable(address: str) -> bool:
    """Return whether this process can connect to the client at `address`: same machine, and permitted."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            dial(Address.parse(address), sock)
        except OSError:
            return False
        return True


class HostRelay:
    """A relay on a host that cannot reach the client's socket. Any thread may call its methods.

    The key in `client_address` does not cross the tunnel. For `log_dir`, a directory on this host, and `hide`, see `LogRelay`.
    `carried` is called when this process exits before `close`: whether `take` and `give` are still called. If not, it leaves.
    """

    def __init__(
        self,
        client_address: str,
        *,
        log_dir: str | None = None,
        hide: Sequence[str] = (),
        carried: Callable[[], bool] = lambda: True,
    ) -> None:
        self._end, theirs = socket.socketpair()
        self._relay = LogRelay(client_address, log_dir=log_dir, hide=hide, tunnel=theirs)
        self._carried = carried
        self._started: Future[None] = Awaited()
        self._giving = threading.Lock()
        threading.Thread(target=self._start, name="meshlog-host-relay", daemon=True).start()

    def _start(self) -> None:
        try:
            self._relay.start()
            at_exit.stop_at_exit(self._relay, self._exit)
        except BaseException as error:
            self._started.set_exception(error)
        else:
            self._started.set_result(None)

    def _exit(self) -> None:
        self._relay.leaves = self._relay.leaves or not self._carried()
        self._relay.stop()

    @property
    def address(self) -> str:
        """The address that workers of this host `install`. Waits until the tunnel works.

        Raises `ConnectError` after 20 seconds: nothing calls `take` and `give`, or the client has ended.
        """
        try:
            self._started.result(2 * HANDSHAKE_SEC)
        except NotInTime:
            raise ConnectError(
                "the relay cannot reach the client: its tunnel transfers no data. Start a Tunnel in the client's process."
            ) from None
        return self._relay.address

    @property
    def client(self) -> LogClient:
        """The client that reads the workers of this host (see `LogRelay.client`). `address` must have been read before."""
        return self._relay.client

    def take(self, timeout: float | None) -> bytes:
        """Return bytes for the client; b"" if there are none within `timeout` seconds.

        Raises `ClosedError` if the relay has ended and all bytes were returned.
        """
        seconds = check_timeout(timeout)
        try:
            if not is_readable(self._end.fileno(), seconds):
                return b""
            data = self._end.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            raise ClosedError("the relay has ended")
        return data

    def give(self, data: bytes) -> None:
        """Accept bytes from the client; raise `ClosedError` if the relay has ended."""
        try:
            with self._giving:
                self._end.sendall(data)
        except OSError:
            raise ClosedError("the relay has ended") from None

    def report_exit(self, mesh: str, rank: int, exitcode: int) -> None:
        """Report the exit of a worker of this host (see `LogClient.report_exit`)."""
        self._relay.report_exit(mesh, rank, exitcode)

    def close(self, timeout: float | None = 10.0) -> None:
        """Forward pending data, and stop. `take` returns the rest, then raises `ClosedError`."""
        seconds = check_timeout(timeout)
        if not self._started.done():  # else it would start after this
            self._end.shutdown(socket.SHUT_RDWR)
        self._relay.stop(seconds)

    def leave(self) -> None:
        """End, because the tunnel is cut for good. Another `HostRelay` of this host goes on with the workers.

        `take` raises `ClosedError`.
        """
        self._relay.leaves = True
        self.close()


class Tunnel:
    """The client's end of the tunnel to a `HostRelay`. The client runs in this process.

    `take` and `give` call the methods of the `HostRelay` remotely, each on a separate thread of the tunnel; `take` is called
    repeatedly. Any exception from them, and None from `take`, ends the tunnel: the client treats the relay and its workers as
    disconnected.
    """

    def __init__(self, client_address: str, take: Callable[[float], bytes | None], give: Callable[[bytes], object]) -> None:
        self._address = Address.parse(client_address)
        self._take = take
        self._give = give
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._threads: list[threading.Thread] = []
        self._ended = False

    def start(self) -> Tunnel:
        """Connect to the client and start to transfer bytes; raise `OSError` if the client has ended."""
        dial(self._address, self._sock)
        set_kernel_timeout(self._sock, 0)
        for carry, name in ((self._carry_up, "up"), (self._carry_down, "down")):
            thread = threading.Thread(target=self._until_it_ends, args=(carry,), name=f"meshlog-tunnel-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    @property
    def ended(self) -> bool:
        """Whether nothing is transferred any more."""
        return self._ended

    def wait(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the end of the relay, with all its data. Call it before `close`."""
        self._threads[0].join(capped(timeout))

    def close(self) -> None:
        """End the tunnel; wait a few seconds for transfers in progress."""
        self._disconnect()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_END_SEC)
        self._sock.close()

    def __enter__(self) -> Tunnel:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _until_it_ends(self, carry: Callable[[], None]) -> None:
        internal_threads.add(threading.get_ident())  # the tunnel must not transfer what the engine logs during a transfer
        try:
            carry()
        except (ClosedError, OSError):
            return  # normal end of either side: the client sees end of file
        except Exception as failure:  # engines may raise anything
            diagnose(f"the tunnel to a relay has ended: {type(failure).__name__}: {failure}")
        finally:
            self._disconnect()
            internal_threads.discard(threading.get_ident())

    def _carry_up(self) -> None:
        while not self._ended and (data := self._take(_WAIT_SEC)) is not None:
            self._sock.sendall(data)

    def _carry_down(self) -> None:
        while data := self._sock.recv(_PIECE):
            with contextlib.suppress(ClosedError):  # the relay has ended: its last bytes still come up
                self._give(data)

    def _disconnect(self) -> None:
        self._ended = True
        with contextlib.suppress(OSError):  # the client has already closed the connection
            self._sock.shutdown(socket.SHUT_RDWR)
