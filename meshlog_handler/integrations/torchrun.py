"""``torchrun --logs-specs meshlog``: the launcher process shows the output and the logs of its workers.

::

    torchrun's agent: LogClient <- a pipe for stdout, one for stderr <- worker, started by the agent
                                <- records, if the worker calls install() or has a MeshHandler
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, Std

from .. import settings
from ..client.log_client import LogClient
from ..errors import ClosedError, FlushTimeout
from ..output.console import ConsoleHandler, RanksFilter
from ..output.terminal import colour_told, size_told
from ..protocol.record import info_of
from ..system.descriptors import make_pipe
from ..system.diagnostics import diagnose
from .torchrun_files import Attempt, AttemptFiles, Filtered

_SHOWN_SEC = 5.0


class MeshLogsSpecs(DefaultLogsSpecs):  # type: ignore[misc]  # torch is not installed where types are checked
    """Redirects the output of the workers of a node to pipes of a client in this process.

    Parameters
    ----------
    log_dir : str or None
        ``--log-dir``: also write a complete file per rank and stream to this directory.
    redirects, tee : Std or dict
        ``-r``, ``-t``: also write complete files, to a temporary directory if there is no `log_dir`: those of this package, and
        those of each attempt where torchrun has them. Of a stream that is in `redirects` and not in `tee`, only WARNING and
        above is shown.
    local_ranks_filter : set of int or None
        ``--local-ranks-filter``: show only these ranks, and WARNING and above of the others.

    Notes
    -----
    Used on torchrun's main thread. ``MESHLOG_AGGREGATE_WINDOW_SEC`` sets the window for grouping. Workers that are
    functions, as with ``--run-path``, are captured only if they call `install`, because torch opens no pipes for them.
    """

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        super().__init__(log_dir)  # the directory for the error files of workers
        files = log_dir is not None or any(std != Std.NONE for chosen in (redirects, tee) for std in _each(chosen))
        self._redirects, self._tee = redirects, tee
        self._console = ConsoleHandler()
        self._shown_ranks = local_ranks_filter
        files = files and log_dir != os.devnull
        self._client = _Client(self._console, log_dir=self.root_log_dir if files else None, job="")
        self._client.registry.launched = ""  # this process's own rank from another launcher does not apply to workers
        self._mesh = secrets.token_hex(8)
        self._writers: list[int] = []
        self._ranks: list[int] = []

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Redirect the output of the workers that torchrun is about to start, and set the address that they join."""
        places = super().reify(envs)
        for each in (places.tee_stdouts, places.tee_stderrs):
            each.clear()  # torchrun would show the files, too
        if not self._client.running:
            self._client.start()
            atexit.register(self._stop)
        self._end_attempt()
        # `reify` gets no argument for this; the local variables of its caller have it.
        caller = sys._getframe(1).f_locals
        functions = callable(caller.get("entrypoint"))
        self._ranks = [int(env.get("RANK", local_rank)) for local_rank, env in envs.items()]
        self._client.registry.add_mesh(self._mesh, {rank: {} for rank in self._ranks})
        shown = {
            std: [rank for local_rank, rank in zip(envs, self._ranks, strict=True) if self._shows(local_rank, std)]
            for std in (Std.OUT, Std.ERR)
        }
        self._console.filters[:] = [_StreamsFilter(shown[Std.OUT], shown[Std.ERR])]
        if self._client.files is not None:
            self._client.files.attempt = self._attempt(places, caller)
        for (local_rank, env), rank in zip(envs.items(), self._ranks, strict=True):
            env[settings.ADDRESS] = self._client.address
            if functions:
                continue
            readers, writers = {}, []
            for name, paths in (("stdout", places.stdouts), ("stderr", places.stderrs)):
                readers[name], writer = make_pipe()
                writers.append(writer)
                paths[local_rank] = f"/dev/fd/{writer}"  # opened by the agent as a file
            # torchrun does not report the pids of its workers: 0 means unknown.
            self._client.adopt(0, rank, local_rank, readers, self._mesh)
            base = {**os.environ, **env}
            env.update(
                {**settings.captured(base), **settings.pipes(rank, writers), **colour_told(base), **size_told(rank, base)}
            )
            self._writers += writers
        return places

    def _shows(self, local_rank: int, std: Std) -> bool:
        if self._shown_ranks and local_rank not in self._shown_ranks:
            return False
        return bool(_of(self._tee, local_rank) & std) or not _of(self._redirects, local_rank) & std

    def _attempt(self, places: LogsDest, caller: Mapping[str, Any]) -> Attempt:
        """Return where torchrun would write the output: ``attempt_0/1/stdout.log``, and the lines of its filters."""
        copies: dict[tuple[int | None, str], str] = {}
        filtered: dict[str, Filtered] = {}
        for std, stream in ((Std.OUT, "stdout"), (Std.ERR, "stderr")):
            heads = {}
            for local_rank, rank in zip(places.error_files, self._ranks, strict=True):
                tee = bool(_of(self._tee, local_rank) & std)
                if tee or _of(self._redirects, local_rank) & std:
                    path = os.path.join(os.path.dirname(os.path.abspath(places.error_files[local_rank])), f"{stream}.log")
                    copies[rank, stream] = path
                    with open(path, "ab"):
                        pass  # torchrun makes it, too
                if tee and self._shows(local_rank, std):
                    prefixes = caller.get("log_line_prefixes") or {}
                    heads[rank] = prefixes.get(local_rank, f"[{caller.get('name')}{local_rank}]:").encode()
            texts = [text.encode() for text in caller.get(f"duplicate_{stream}_filters") or ()]
            if texts:
                filtered[stream] = Filtered(os.path.abspath(getattr(places, f"filtered_{stream}")), texts, heads)
        return Attempt(copies, filtered)

    def _end_attempt(self) -> None:
        """Clean up after the last workers. torchrun restarts all workers when one fails."""
        for rank in self._ranks:
            self._client.report_exit(self._mesh, rank, 0)  # torchrun itself reports failures
        for writer in self._writers:
            os.close(writer)
        if self._ranks and self._client.files is not None:  # the next attempt has its own files
            with contextlib.suppress(FlushTimeout, ClosedError):  # it must not wait for a handler
                self._client.flush(_SHOWN_SEC)
        self._writers, self._ranks = [], []

    def _stop(self) -> None:
        self._end_attempt()
        self._client.stop()
        self._console.close()


class _Client(LogClient):
    """A client that also writes the files of torchrun."""

    files: AttemptFiles | None = None

    def _make_files(self, directory: str) -> AttemptFiles:
        self.files = AttemptFiles(directory, report=diagnose, rotation=self._rotation)
        return self.files


class _StreamsFilter(logging.Filter):
    """Passes stdout of some ranks, and stderr and records of some ranks; and everything at WARNING and above."""

    def __init__(self, stdout: Iterable[int], stderr: Iterable[int]) -> None:
        super().__init__()
        self._stdout, self._others = RanksFilter(stdout), RanksFilter(stderr)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record passes."""
        return (self._stdout if info_of(record).stream == "stdout" else self._others).filter(record)


def _of(chosen: Any, local_rank: int) -> Any:
    return chosen.get(local_rank, Std.NONE) if isinstance(chosen, dict) else chosen


def _each(chosen: Any) -> list[Any]:
    return list(chosen.values()) if isinstance(chosen, dict) else [chosen]
