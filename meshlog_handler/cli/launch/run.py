"""``meshlog run``: runs a command on every rank, shows all records and output, and ends with a summary of failures."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from ... import settings
from ...client.log_client import LogClient
from ...client.peers.peer import Peer
from ...client.peers.tail import last_lines
from ...errors import BusyError
from ...insight.hang import Hang
from ...output.console import RanksFilter
from ...output.formatter import MeshFormatter
from ...output.json_formatter import JsonFormatter
from ...output.terminal import colour_told, size_told
from ...protocol.messages import Prepare, level_config
from ...protocol.ranks import format_ranks
from ...system.descriptors import takes_more
from ...system.diagnostics import diagnose
from ...system.exit_status import signal_name
from ...system.signals import STOPPING, Signals, wait_for_foreground
from ...system.waits import LONGEST_SEC, ended, monotonic, seconds_until
from .interrupt_console import CollapsingConsole
from .launcher import LaunchError, Rank, Ranks
from .summary import RankEnd, RankFailure, end_table, failure_summary, stdin_hint

LINGER_SEC: Final = 1.0
"""Seconds to wait, after all ranks have ended, for output of processes that ranks left running."""

UNREAD_SEC: Final = 3.0
"""Seconds that ranks have to end, or to stop writing, after the reader of the launcher's output has closed it."""

HUNG: Final = 124
"""The exit code of a job that was ended because it hung, as that of ``timeout``."""

HURRY_SEC: Final = 1.0
"""Seconds that the reader of the launcher's output has for the rest of it, after a second request to stop."""

REPORT_SEC: Final = 10.0
"""Seconds to report what a reader has not read."""


@dataclass(frozen=True)
class Options:
    """The options of ``meshlog run``. `prefix`: None is the default prefix; ``"none"`` shows lines exactly as written.

    `stdin` is the rank that reads this process's standard input, None for no rank. `summary` adds a table of all ranks.
    `count` is 0 if the processes that are started choose their ranks.
    `hang_after` and `progress_from` are those of `LogClient`; `kill_on_hang` ends a job that hangs with exit code 124.
    """

    command: tuple[str, ...]
    count: int = 1
    window: float | None = None
    level: int | None = None
    log_dir: str | None = None
    ranks_filter: frozenset[int] | None = None
    quiet: bool = False
    prefix: str | None = None
    as_json: bool = False
    never: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    grace: float = 5.0
    stdin: int | None = None
    summary: bool = False
    hang_after: float | None = None
    kill_on_hang: bool = False
    progress_from: str = "output"


def run(options: Options, start: Callable[..., LocalRun] | None = None) -> int:
    """Run a command on N ranks, and return the exit code for the shell (see `LocalRun.exitcode`).

    `start` makes the `LocalRun`; None: this process starts all ranks. Raises `LaunchError` if a rank cannot be started, and
    `OSError` if the log directory cannot be written.
    """
    if options.log_dir is not None:
        settings.make_directory(settings.absolute(options.log_dir, "--log-dir"), "--log-dir")
    console = _console(options)
    meshes: list[LocalRun] = []
    client = LogClient(
        console,
        aggregate_window_sec=options.window,
        log_dir=options.log_dir,
        never=options.never,
        hide=options.hide,
        hang_after=options.hang_after,
        on_hang=None if options.hang_after is None else lambda hang: meshes[0].note_hang(hang) if meshes else None,
        progress_from=options.progress_from,
        job="",
    )
    size = options.count if start is None or not options.count else settings.launched_size(settings.launched())
    missing = [rank for rank in options.ranks_filter or () if rank >= size]
    if missing and size:
        there = f"ranks 0-{size - 1}" if size > 1 else "rank 0"
        diagnose(f"--ranks-filter names {format_ranks(missing)}, but this {'run' if start is None else 'job'} has only {there}")
    client.registry.launched = ""  # a rank from another launcher is that of the command, not of the client
    with Signals() as signals:
        try:
            client.start()
        except RuntimeError as failure:  # no thread can be started
            raise LaunchError(
                f"the client cannot be started: {failure}. Raise the limits of this user (ulimit -u).", 1
            ) from None
        mesh = (start or LocalRun)(options, client, console=console, signals=signals)
        meshes.append(mesh)
        try:
            mesh.run()
        finally:
            summary = mesh.finish()
            client.stop()
            console.close()
        if summary:
            diagnose(summary)
    return mesh.exitcode


class LocalRun:
    """One run: connects the processes of the ranks with a client. Main thread only.

    `environments` is by rank, for ranks that another launcher numbered. None: `options.count` ranks from 0. `reader` is a rank
    that keeps the standard input which another launcher gave to this process. None: the rank that the options name.
    `numbered`: whether the processes have ranks.
    """

    numbered = True
    leaves_reader = True
    """Whether a signal ends the wait for a reader that does not read."""

    def __init__(
        self,
        options: Options,
        client: LogClient,
        *,
        console: CollapsingConsole,
        signals: Signals,
        environments: Mapping[int, Mapping[str, str]] | None = None,
        reader: int | None = None,
    ) -> None:
        self._options = options
        self._client = client
        self._console = console
        self._signals = signals
        console.reader = options.stdin if reader is None else reader
        self._mesh = secrets.token_hex(8)
        self._peers: list[Peer] = []
        self._unread_until = float("inf")
        self._lost = 0
        self._asked = False  # whether a signal came after the end of the ranks
        self._hang: Hang | None = None
        self._environments = environments or rank_environments(client.environ(), options.count, colours=not options.as_json)
        self._ranks = Ranks(
            options.command,
            self._environments,
            grace=options.grace,
            watcher=self,
            reader=console.reader,
        )

    def run(self) -> None:
        """Start all ranks, and wait until they have ended."""
        if self._options.stdin is not None:
            wait_for_foreground()
        self._signals.suspended = self._suspended
        self._console.hung_up = self._hung_up
        self._client.registry.add_mesh(self._mesh, {rank: {} for rank in self._environments} if self.numbered else None)
        if self._options.level is not None:
            self._client.set_default("", Prepare(0, level_config(self._options.level)))
        self._ranks.run(self._signals)

    def _suspended(self, number: signal.Signals) -> None:
        """Suspend the ranks, or continue them when one of them may read from the terminal."""
        if number == signal.SIGCONT and self._options.stdin is not None:
            wait_for_foreground()
        self._ranks.suspend(number)

    def started(self, rank: int, pid: int, pipes: Mapping[str, int]) -> None:
        """Pass the output of a rank to the client."""
        local_rank = settings.local_rank(self._environments[rank])
        self._peers.append(self._client.adopt(pid, rank, rank if local_rank is None else local_rank, pipes, self._mesh))

    def ended(self, rank: Rank) -> None:
        """Report the exit of a rank to the client, as a success if the launcher stopped it."""
        assert rank.exitcode is not None
        if rank.rank == self._console.reader:
            self._console.reader = None
        self._client.report_exit(self._mesh, rank.rank, 0 if rank.was_stopped else rank.exitcode)

    def stopping(self, number: signal.Signals) -> None:
        """Prepare the console for a traceback of every rank."""
        if number != signal.SIGINT or self._options.as_json:
            return
        self._console.folding = True
        # Turn grouping off: the console recognizes a traceback only by all of its lines.
        try:
            self._client.switch(None, seconds=1.0)
        except BusyError:  # the client waits for the reader of its output; ranks must not
            self._client.switch(None, wait=False)

    def _hung_up(self) -> None:
        """Start to check whether ranks stop writing. Called on the client's thread."""
        self._unread_until = min(self._unread_until, monotonic() + UNREAD_SEC)
        self._signals.wake()

    def patience(self) -> float:
        """Return 1 second after the reader has closed the output, otherwise `LONGEST_SEC`."""
        return LONGEST_SEC if self._unread_until == float("inf") else 1.0

    def unread(self) -> bool:
        """Return whether ranks still write output that has neither a reader nor a file. A pipe would send them SIGPIPE."""
        if self._unread_until == float("inf") or self._options.log_dir is not None:
            return False
        before, self._lost = self._lost, self._console.failed
        return self._lost > before and monotonic() >= self._unread_until

    def note_hang(self, hang: Hang) -> None:
        """Note that the ranks hang. Any thread."""
        self._hang = hang
        self._signals.wake()

    def hung(self) -> bool:
        """Return whether the ranks hang and are to be ended. Ranks that are not reachable may work."""
        return self._hang is not None and self._options.kill_on_hang and not self._hang.unreachable

    def finish(self) -> str:
        """Show all remaining output, and return the summary."""
        ranks = self._ranks
        pipes = [pipe for peer in self._peers for pipe in peer.pipes]
        deadline = monotonic() + LINGER_SEC
        impatient = ranks.asked_again
        while not impatient and monotonic() < deadline and any(pipe.fd >= 0 for pipe in pipes):
            impatient = bool(self._signals.wait(0.02))
        ranks.reap()
        all_ended = all(rank.exitcode is not None for rank in ranks.ranks)
        flushed = self._client.flush_soon(None if all_ended else 10.0)
        flushed.add_done_callback(lambda _: self._signals.wake())
        stopped = self.leaves_reader and (self._asked or ranks.stopped_by in STOPPING) and not self.hung()
        patience = max(HURRY_SEC, self._options.grace) if stopped else float("inf")
        hurried, deadline, progress = monotonic() + HURRY_SEC, monotonic() + patience, self._client.progress
        while not flushed.done():
            impatient = bool(self._signals.wait(seconds_until(hurried if impatient else deadline))) or impatient
            if impatient and monotonic() >= hurried:
                self._leave()
            if monotonic() >= deadline:
                before, progress, deadline = progress, self._client.progress, monotonic() + patience
                if progress == before:
                    self._leave()
        try:
            return self._client.ask(self._summarize)
        except BusyError:  # the summary must still be printed
            return self._summarize()

    def _leave(self) -> NoReturn:
        """Exit without the rest of the output: the client's thread blocks in a write, and a normal exit would, too."""

        def report() -> None:
            if not takes_more(2, 0):  # stderr has the same reader
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            diagnose("the output is not read, or too slowly: the rest of it is lost")
            self._client.stop(0.0)  # counts what is not shown

        reporter = threading.Thread(target=report, name="meshlog-leave", daemon=True)
        reporter.start()
        ended(reporter, REPORT_SEC)
        os._exit(self.exitcode or 128 + signal.SIGINT)

    @property
    def exitcode(self) -> int:
        """The exit code of the first rank that failed, or 128 and the number of the signal that ended it or the run."""
        first = self._ranks.first_failure
        if self.hung() and first is None:
            return HUNG
        if first is not None and first.exitcode is not None:
            return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
        return 128 + self._ranks.stopped_by if self._ranks.stopped_by is not None else 0

    def _summarize(self) -> str:
        """Return the summary. Runs on the client's thread, which owns the last lines of the ranks."""
        ranks = self._ranks
        failures = [
            RankFailure(rank.rank, rank.process.pid, rank.exitcode, rank.when, tuple(last_lines(peer.tail)))
            for rank, peer in zip(ranks.ranks, self._peers, strict=True)
            if rank.exitcode and not rank.was_stopped
        ]
        ends: dict[int | None, list[int]] = {}
        for rank in ranks.ranks:
            if rank.was_stopped or rank.exitcode is None:
                ends.setdefault(rank.exitcode, []).append(rank.rank)
        parts = [failure_summary(failures, self._options.count)] if failures else []
        for exitcode, stopped in ends.items():
            how = f"ended by {signal_name(exitcode)}" if exitcode is not None else "still alive after SIGKILL"
            parts.append(f"stopped {format_ranks(stopped)}: {how}")
        parts += filter(None, [stdin_hint(failures, self._options.stdin)])
        if self._console.folded:
            parts.append(f"left out the same KeyboardInterrupt of {format_ranks(self._console.folded)}")
        if ranks.stopped_by is not None and ranks.first_failure is None:
            parts.insert(0, "stopped by --on-hang kill" if self.hung() else f"stopped by {ranks.stopped_by.name}")
        if self._hang is not None:
            parts.insert(0, self._hang.text)
        if self._options.summary:
            rows = (RankEnd(rank.rank, rank.process.pid, rank.exitcode, rank.seconds, rank.was_stopped) for rank in ranks.ranks)
            parts.append(end_table(list(rows)))
        return "\n".join(parts)


def rank_environments(base: Mapping[str, str], count: int, *, colours: bool = True) -> dict[int, dict[str, str]]:
    """Return the environment of each rank. With `colours`, ranks use colours if this process does."""
    common, size = settings.captured({**(colour_told(base) if colours else {}), **base}), str(count)
    return {
        rank: {
            **common,
            **size_told(rank, common),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
        }
        for rank in range(count)
    }


def _console(options: Options) -> CollapsingConsole:
    formatter: JsonFormatter | MeshFormatter | None = None
    ranks_filter = None
    if options.as_json:
        formatter = JsonFormatter()
    elif options.prefix is not None:
        formatter = MeshFormatter(prefix=None if options.prefix == "none" else options.prefix)
    if options.ranks_filter is not None:
        ranks_filter = RanksFilter(options.ranks_filter)
    output = sys.stdout if options.as_json else None
    console = CollapsingConsole(output, output, formatter, ranks_filter)
    if options.quiet:
        console.addFilter(lambda record: False)
    return console
