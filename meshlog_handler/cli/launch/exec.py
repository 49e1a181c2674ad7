"""``meshlog exec``: a command that a launcher such as mpirun or srun starts on every rank, in place of the program.

::

    mpirun -> meshlog exec, the first on this host: shows all ranks, and runs the program as its child
           -> meshlog exec, any other: redirects stdout and stderr to the first, and becomes the program
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from functools import partial
from typing import Final, NoReturn

from ... import settings
from ...client.log_client import LogClient
from ...errors import BusyError, ConnectError, SettingError
from ...output.terminal import colour_told, size_told
from ...protocol.messages import Hello
from ...system.descriptors import make_pipe
from ...system.diagnostics import diagnose
from ...system.signals import Signals
from ...system.waits import monotonic
from ...transport.channel import Address, connect
from ...transport.election import OF_LAUNCHER, Election
from .interrupt_console import CollapsingConsole
from .run import LINGER_SEC, LocalRun, Options, run

_PATIENCE_SEC: Final = 30.0
_LOOK_SEC: Final = 0.02
_WAIT_SEC: Final = 0.1


def execute(options: Options) -> int:
    """As the first rank of this host, run the command, show all ranks of the host, and return the exit code.

    Any other rank joins the first one, becomes the command, and does not return. Raises `SettingError` if there is neither a
    client nor a launcher.
    """
    address = os.environ.get(settings.ADDRESS)
    if address:
        try:
            become(options.command, address)
        except ConnectError as failure:
            diagnose(f"the output of {options.command[0]} is not captured: {failure}")
            _replace(options.command, os.environ)
    if settings.rank() is None:
        raise SettingError(
            f"no rank and no client found: none of {', '.join(settings.RANK_VARIABLES)} and {settings.ADDRESS} is set. "
            f"Use a launcher, such as mpirun -n 4 meshlog exec -- python train.py, or meshlog run -n 4"
        )
    job = Election(f"{OF_LAUNCHER}{os.getppid()}")  # among the ranks of this host with the same parent process
    deadline = monotonic() + _PATIENCE_SEC
    while not job.claim():
        address = job.address()
        if address:
            with contextlib.suppress(ConnectError):  # the client has just ended; the job is released now, or soon
                become(options.command, address)
        if monotonic() > deadline:
            diagnose(
                f"the output of {options.command[0]} is not captured: the process that should display this job is not "
                f"responding (see {job.path})"
            )
            _replace(options.command, os.environ)
        time.sleep(_LOOK_SEC)
    return run(options, partial(HostRun, job))


def become(command: tuple[str, ...], address: str) -> NoReturn:
    """Join a client as a rank whose output is captured, and become the command. After a `ConnectError`, nothing has changed."""
    ends = [make_pipe() for _ in range(2)]
    try:
        hello = Hello(
            os.getpid(),
            socket.gethostname(),
            settings.rank(),
            settings.local_rank(),
            "",
            ("stdout", "stderr"),
            False,
            time.time(),
            output_only=True,
        )
        link, welcome = connect(Address.parse(address), hello, [reader for reader, _ in ends])
    except BaseException:
        for fd in (end for pair in ends for end in pair):
            os.close(fd)
        raise
    link.outlive_exec()
    environment = settings.captured({**os.environ, settings.ADDRESS: address})
    environment.pop(settings.JOB, None)  # it goes before the address
    if welcome.rank is not None:
        environment.update(settings.pipes(welcome.rank, [writer for _, writer in ends]))
    if settings.rank() is None:  # records of the program get the same rank as its output
        environment["RANK"] = str(welcome.rank)
    for fd, (_, writer) in enumerate(ends, 1):
        os.dup2(writer, fd, inheritable=True)
    _replace(command, environment)


def _replace(command: tuple[str, ...], environment: dict[str, str] | os._Environ[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and resets them only in subprocesses
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as failure:
        diagnose(f"{command[0]} cannot be started: {failure.strerror}. If it is a script, name its interpreter.")
        os._exit(126)


class HostRun(LocalRun):
    """The rank that shows all ranks of its host. It starts one process; the other ranks connect.

    If its own process succeeds, it waits for the other ranks. If its own process fails, it exits soon, since the launcher needs
    the exit code.
    """

    def __init__(
        self, job: Election, options: Options, client: LogClient, *, console: CollapsingConsole, signals: Signals
    ) -> None:
        self._job = job
        rank = settings.rank()
        assert rank is not None
        self._rank = rank
        environ = settings.captured(client.environ())
        colours = {} if options.as_json else colour_told(environ)
        environments = {rank: {**environ, **colours, **size_told(rank, environ)}}
        super().__init__(options, client, console=console, signals=signals, environments=environments, reader=rank)

    def run(self) -> None:
        """Publish the address for the other ranks, and run the own process to its end."""
        self._job.publish(self._client.address)
        super().run()

    def finish(self) -> str:
        """Wait for the other ranks, and show their remaining output. Return no summary, since the launcher reports failures."""
        deadline = monotonic() + LINGER_SEC if self.exitcode else float("inf")
        deadline = self._wait_for_others(deadline)
        self._job.release()
        with contextlib.suppress(BusyError):  # the client waits for the reader of its output
            self._client.refuse_commands(LINGER_SEC)
        self._wait_for_others(deadline)  # ranks that joined before the release; later ones claim the job
        super().finish()
        return ""

    def _wait_for_others(self, deadline: float) -> float:
        while monotonic() < deadline:
            with contextlib.suppress(BusyError):  # the client waits for the reader of its output
                stats = self._client.ask(self._client.stats, LINGER_SEC)
                if not any(each.alive for rank, each in stats.items() if rank != self._rank):
                    return deadline
            if self._signals.wait(_WAIT_SEC):
                self._asked, deadline = True, min(deadline, monotonic() + LINGER_SEC)
        return deadline
