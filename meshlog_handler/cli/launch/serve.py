"""``meshlog serve``: lends a client to a launcher and to all processes that it starts.

::

    meshlog serve -- COMMAND -> COMMAND and what it starts: their output, without a rank
                             -> processes that use install() or a MeshHandler: their records, with their ranks
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from ... import settings
from ...client.log_client import LogClient
from ...client.peers.tail import last_lines
from ...system.signals import Signals
from .interrupt_console import CollapsingConsole
from .launcher import COMMAND, Rank
from .run import HUNG, LocalRun, Options, run
from .summary import RankFailure, command_summary


def serve(options: Options) -> int:
    """Run a command that starts other processes, show them all, and return the exit code of the command. Raises as `run`."""
    return run(options, ServeRun)


class ServeRun(LocalRun):
    """The run of one command without a rank. Its descendants join the client by its environment."""

    numbered = False

    def __init__(self, options: Options, client: LogClient, *, console: CollapsingConsole, signals: Signals) -> None:
        environ = settings.captured(client.environ())
        for name in (settings.CAPTURED, settings.CAPTURED_PIPES):  # a process that installs captures its output
            environ.pop(name, None)
        super().__init__(
            options,
            client,
            console=console,
            signals=signals,
            environments={COMMAND: environ},
            reader=COMMAND if _has_stdin() else None,
        )

    def started(self, rank: int, pid: int, pipes: Mapping[str, int]) -> None:
        """Pass the output of the command to the client."""
        self._peers.append(self._client.adopt(pid, None, None, pipes, self._mesh))

    def ended(self, rank: Rank) -> None:
        """Report to the client that the command has ended. The summary has its exit code."""
        self._console.reader = None
        self._client.report_exit(self._mesh, None, 0)

    @property
    def exitcode(self) -> int:
        """The exit code of the command, or 128 and the number of the signal that ended it."""
        code = self._ranks.ranks[0].exitcode if self._ranks.ranks else None
        if self.hung():
            return HUNG
        return 128 + signal.SIGKILL if code is None else code if code >= 0 else 128 - code

    def _summarize(self) -> str:
        parts = [] if self._hang is None else [self._hang.text]
        for rank, peer in zip(self._ranks.ranks, self._peers, strict=True):
            if rank.exitcode != 0:
                lines = tuple(last_lines(peer.tail))
                failure = RankFailure(rank.rank, rank.process.pid, rank.exitcode, rank.when, lines)
                parts.append(command_summary(failure, self._options.command[0], was_stopped=rank.was_stopped))
        return "\n".join(parts)


def _has_stdin() -> bool:
    """Return whether the command may read this process's standard input: not the terminal of another job of the shell."""
    try:
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # it is closed, or not the terminal of this session
        return False
