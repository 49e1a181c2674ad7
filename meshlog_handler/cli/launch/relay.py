"""``meshlog relay``: what ``meshlog on`` starts on a host. It runs a command there, and shows it through the client here.

::

    stdin  -> what to start, bytes of the client, signals
    stdout <- bytes for the client
    the command and what it starts -> HostRelay
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from typing import Any, Final

from ...client.relay.tunnel import HostRelay
from ...errors import ClosedError, ProtocolError
from ...system.diagnostics import diagnose
from ...system.signals import STOPPING, Signals
from .host_frames import DATA, SIGNAL, START, read_frame
from .interrupt_console import CollapsingConsole
from .run import Options
from .serve import ServeRun

_TAKE_SEC: Final = 1.0


class RelayedRun(ServeRun):
    """The run of a command for the client of another host, which decides how long a reader is waited for."""

    leaves_reader = False


def relay() -> int:
    """Run the command that the other end names, and return its exit code.

    If the other end is gone, the command gets SIGTERM. Raises `LaunchError` if the command cannot be started, and
    `ConnectError` if the client is gone.
    """
    received, sent = _own_streams()
    kind, contents = read_frame(received)
    if kind != START:
        raise ProtocolError("the first frame does not say what to start. Start this command by meshlog on HOST -- COMMAND")
    wanted: dict[str, Any] = json.loads(contents)
    with contextlib.suppress(OSError):  # the host has no such directory: the command starts where the shell of this host does
        os.chdir(wanted["directory"])
    options = Options(command=tuple(wanted["command"]), count=0, grace=wanted["grace"])
    with Signals() as signals:
        host = HostRelay(wanted["address"])
        up = threading.Thread(target=_pass_up, args=(host, sent), name="meshlog-up", daemon=True)
        up.start()
        threading.Thread(target=_pass_down, args=(host, received), name="meshlog-down", daemon=True).start()
        try:
            _ = host.address  # waits for the client
            run = RelayedRun(options, host.client, console=CollapsingConsole(), signals=signals)
            try:
                run.run()
            finally:
                summary = run.finish()
        finally:
            host.close()
            up.join()
    if summary:
        diagnose(summary)
    return run.exitcode


def _own_streams() -> tuple[int, int]:
    """Return stdin and stdout; what else uses them reads nothing, and writes to stderr."""
    received, sent = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return received, sent


def _pass_up(host: HostRelay, fd: int) -> None:
    with contextlib.suppress(ClosedError, OSError):  # the relay has ended, or the other end is gone
        while True:
            data = memoryview(host.take(_TAKE_SEC))
            while data:
                data = data[os.write(fd, data) :]
    os.close(fd)


def _pass_down(host: HostRelay, fd: int) -> None:
    """Pass on what comes from the client, and signals, until the other end is gone."""
    try:
        while True:
            kind, contents = read_frame(fd)
            if kind == DATA:
                with contextlib.suppress(ClosedError):  # the relay has ended, and the command before it
                    host.give(contents)
            elif kind == SIGNAL and int(contents) in STOPPING:
                os.kill(os.getpid(), int(contents))
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
