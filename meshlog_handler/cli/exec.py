"""``meshlog exec``: what a launcher such as mpirun or srun starts on every rank, before the program itself.

::

    mpirun -> meshlog exec, the first on this host: shows all, and runs the program as its child
           -> meshlog exec, any other: leads stdout and stderr there, and becomes the program
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import Final, NoReturn

from .. import settings
from ..client.log_client import LogClient
from ..errors import ConnectError, SettingError
from ..output.terminal import size_told
from ..protocol.messages import Hello
from ..system.descriptors import make_pipe
from ..system.fd_capture import diagnose
from ..system.signals import Signals
from ..system.waits import monotonic
from ..transport.channel import Address, connect
from .host_election import HostElection
from .interrupt_console import CollapsingConsole
from .run import LINGER_SEC, Options, Run, run

_PATIENCE_SEC: Final = 30.0
_LOOK_SEC: Final = 0.02
_WAIT_SEC: Final = 0.1


def execute(options: Options) -> int:
    """Become the command, captured; or, as the first rank on this host, run it and show all ranks of this host.

    Returns
    -------
    int
        The exit code, from the one that shows. Others do not return.

    Raises
    ------
    SettingError
        If neither a client nor a launcher is known.
    """
    address = os.environ.get(settings.ADDRESS)
    if address:
        try:
            become(options.command, address)
        except ConnectError as failure:
            diagnose(f"the output of {options.command[0]} goes where it would go without meshlog: {failure}")
            _replace(options.command, os.environ)
    if settings.rank() is None:
        raise SettingError(
            f"no rank and no client is known here: none of {', '.join(settings.RANK_VARIABLES)} and {settings.ADDRESS} is "
            f"set. Let a launcher start this, mpirun -n 4 meshlog exec -- python train.py, or use meshlog run -n 4"
        )
    job = HostElection()
    deadline = monotonic() + _PATIENCE_SEC
    while not job.claim():
        address = job.address()
        if address:
            with contextlib.suppress(ConnectError):  # it has just ended: its place is free now, or soon
                become(options.command, address)
        if monotonic() > deadline:
            diagnose(f"the output of {options.command[0]} is not shown in order: who shows this job (see {job.path}) is silent")
            _replace(options.command, os.environ)
        time.sleep(_LOOK_SEC)
    return run(options, lambda *given: HostRun(job, *given))


def become(command: tuple[str, ...], address: str) -> NoReturn:
    """Join a client as a rank whose output is captured, and become the command.

    Raises
    ------
    ConnectError
        If the client cannot be joined; nothing has changed then.
    """
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
    if welcome.rank is not None:
        environment.update(settings.pipes(welcome.rank, [writer for _, writer in ends]))
    if settings.rank() is None:  # what the program logs shall have the rank of what it prints
        environment["RANK"] = str(welcome.rank)
    for fd, (_, writer) in enumerate(ends, 1):
        os.dup2(writer, fd, inheritable=True)
    _replace(command, environment)


def _replace(command: tuple[str, ...], environment: dict[str, str] | os._Environ[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores; its subprocesses do not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as failure:
        diagnose(f"{command[0]} cannot be started: {failure.strerror}. If it is a script, name its interpreter.")
        os._exit(126)


class HostRun(Run):
    """The rank that shows all of its host: one process is started here, the others come by themselves.

    When its own has ended well, it waits for the others. When its own has failed, the launcher has to know.
    """

    def __init__(
        self, job: HostElection, options: Options, client: LogClient, console: CollapsingConsole, signals: Signals
    ) -> None:
        self._job = job
        rank = settings.rank()
        assert rank is not None
        self._rank = rank
        environ = settings.captured(client.environ())
        super().__init__(options, client, console, signals, {rank: {**environ, **size_told(rank, environ)}}, stdin=None)

    def run(self) -> None:
        """Let the others come, and run the own process to its end."""
        self._job.publish(self._client.address)
        super().run()

    def finish(self) -> str:
        """Wait for the others, and show what is left. There is no summary: that is the launcher's."""
        deadline = monotonic() + LINGER_SEC if self.exitcode else float("inf")
        self._wait_for_others(deadline)
        self._job.release()
        self._client.refuse_commands()
        self._wait_for_others(deadline)  # who found the address before, and had joined; if too late, it claims the job
        super().finish()
        return ""

    def _wait_for_others(self, deadline: float) -> None:
        while monotonic() < deadline:
            stats = self._client.stats()
            if not any(each.alive for rank, each in stats.items() if rank != self._rank):
                return
            if self._signals.wait(_WAIT_SEC):
                deadline = min(deadline, monotonic() + LINGER_SEC)
