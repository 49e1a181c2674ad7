"""``meshlog on``: runs a command on other hosts, and connects their relays with the client of this host.

::

    meshlog on -> ssh HOST meshlog relay -> the command
    the client <- Tunnel <- the output of ssh, for each host
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

from ... import settings
from ...client.relay.tunnel import Tunnel
from ...errors import ClosedError, SettingError
from ...system.descriptors import is_readable, takes_more
from ...system.diagnostics import diagnose
from ...system.signals import Signals
from ...system.waits import monotonic, seconds_until
from .host_frames import DATA, SIGNAL, START, write_frame

_PIECE: Final = 256 * 1024
_REST_SEC: Final = 10.0
_SEND_SEC: Final = 1.0
_PATIENT_SIGNALS: Final = 3
"""After so many signals, hosts that do not answer are left."""


@dataclass(frozen=True)
class HostsOptions:
    """The options of ``meshlog on``. `shell` reaches a host, `python` is the interpreter there."""

    hosts: tuple[str, ...]
    command: tuple[str, ...]
    shell: tuple[str, ...]
    python: str
    grace: float


def run_on_hosts(options: HostsOptions) -> int:
    """Run a command on hosts, and return the first exit code that is not 0. Main thread only.

    When one host fails, the command on the others gets SIGTERM, `grace` seconds later. A host that does not answer signals is
    left. Raises `SettingError` if there is no client, and `OSError` if the client has ended or `shell` cannot be started.
    """
    address = os.environ.get(settings.ADDRESS)
    if not address:
        raise SettingError(
            f"no client found: {settings.ADDRESS} is not set. Use a command that provides one: meshlog serve -- meshlog on ..."
        )
    start = {"address": address, "command": options.command, "directory": os.getcwd(), "grace": options.grace}
    hosts: list[Host] = []
    first, due, asked = 0, float("inf"), 0
    with Signals() as signals:
        try:
            for name in options.hosts:
                hosts.append(Host(name, _words(name, options), address, json.dumps(start).encode()))
            running = list(hosts)
            while True:
                ended = {host: code for host in running if (code := host.exitcode) is not None}
                for host, code in ended.items():
                    first = first or code
                    if code:
                        diagnose(f"{host.name}: exit code {code}")
                running = [host for host in running if host not in ended]
                if not running:
                    break
                if first and due == float("inf"):
                    due = monotonic() + options.grace
                numbers = signals.wait(seconds_until(due))
                if asked and (monotonic() >= due or asked + len(numbers) >= _PATIENT_SIGNALS):
                    diagnose(f"no longer waited for: {', '.join(host.name for host in running)}")
                    break
                if monotonic() >= due:
                    numbers.append(signal.SIGTERM)
                if numbers:  # the relay there sends SIGKILL, `grace` seconds after it got the signal
                    asked, due = asked + len(numbers), monotonic() + 2 * options.grace + _REST_SEC
                for number in numbers:
                    for host in running:
                        host.send(number)
        finally:
            for host in hosts:
                host.close()
    return first or next((host.exitcode for host in hosts if host.exitcode), 0)


def _words(host: str, options: HostsOptions) -> list[str]:
    relay = [options.python, "-m", "meshlog_handler", "relay"]
    if host in ("localhost", socket.gethostname()):
        return relay
    named = [word.replace("{}", host) for word in options.shell]
    return [*named, *relay] if "{}" in " ".join(options.shell) else [*named, host, *relay]


class Host:
    """A command on one host, and the tunnel of its relay. `send` and `close` on the main thread."""

    def __init__(self, name: str, words: Sequence[str], address: str, start: bytes) -> None:
        self.name = name
        # It has a separate session, so that a Ctrl-C ends the command there, and not the connection.
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout
        self._writing = threading.Lock()
        self._tunnel = Tunnel(address, self._take, self._give)
        with contextlib.suppress(BrokenPipeError):  # it has ended: its exit code is the error
            write_frame(self._stdin.fileno(), START, start)
        self._tunnel.start()

    @property
    def exitcode(self) -> int | None:
        """The exit code, or 128 and the number of the signal that ended it; None while the command runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command, unless the host reads nothing at present."""
        fd = self._stdin.fileno()
        if not self._writing.acquire(timeout=_SEND_SEC):
            diagnose(f"{number.name} was not sent to {self.name}: it reads nothing")
            return
        try:
            if not takes_more(fd, _SEND_SEC):
                raise TimeoutError("it reads nothing")
            write_frame(fd, SIGNAL, b"%d" % number)
        except OSError as failure:
            diagnose(f"{number.name} was not sent to {self.name}: {failure}")
        finally:
            self._writing.release()

    def close(self) -> None:
        """Wait for the last records of a command that has ended; end the connection of one that still runs."""
        if self.exitcode is None:
            self._process.kill()
        self._tunnel.wait(_REST_SEC)
        self._tunnel.close()
        self._process.wait()

    def _take(self, timeout: float) -> bytes:
        if not is_readable(self._stdout.fileno(), timeout):
            return b""
        data = os.read(self._stdout.fileno(), _PIECE)
        if not data:
            raise ClosedError(f"{self.name} has ended")
        return data

    def _give(self, data: bytes) -> None:
        with self._writing:
            write_frame(self._stdin.fileno(), DATA, data)
