"""``torchrun --logs-specs meshlog``: the launcher's process shows what its workers write, and all that they log.

::

    torchrun's agent: LogClient <- a pipe for stdout, one for stderr <- worker, started by the agent
                                <- records, where the worker calls install() or has a MeshHandler
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, Std

from .. import settings
from ..client.log_client import LogClient
from ..output.console import ConsoleHandler, RanksFilter
from ..system.descriptors import make_pipe


class MeshLogsSpecs(DefaultLogsSpecs):  # type: ignore[misc]  # torch is not there when types are checked
    """Says where the workers of a node write: into pipes of a client in this process.

    Parameters
    ----------
    log_dir : str or None
        ``--log-dir``: also a complete file per rank and stream in this directory.
    redirects, tee : Std or dict
        ``-r``, ``-t``: a complete file as well, in a temporary directory where there is no `log_dir`.
    local_ranks_filter : set of int or None
        ``--local-ranks-filter``: show these alone, and WARNING and above of the others.

    Notes
    -----
    Used by torchrun's main thread. The window for grouping is ``MESHLOG_AGGREGATE_WINDOW_SEC``. Workers that are
    functions, as with ``--run-path``, are captured where they call `install`: torch opens no pipes for them.
    """

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        super().__init__(log_dir)  # where the files with errors of workers go
        files = log_dir is not None or any(std != Std.NONE for chosen in (redirects, tee) for std in _each(chosen))
        self._console = ConsoleHandler()
        self._shown_ranks = local_ranks_filter
        self._client = LogClient(self._console, log_dir=self.root_log_dir if files else None)
        self._client.registry.launched = ""  # the rank that another launcher gave this one says nothing of its workers
        self._mesh = secrets.token_hex(8)
        self._writers: list[int] = []
        self._ranks: list[int] = []

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Lead the output of the workers that are about to be started, and tell them where to join."""
        places = super().reify(envs)
        if not self._client.running:
            self._client.start()
            atexit.register(self._stop)
        self._end_attempt()
        # Nobody tells us, but who asks knows it.
        functions = callable(sys._getframe(1).f_locals.get("entrypoint"))
        self._ranks = [int(env.get("RANK", local_rank)) for local_rank, env in envs.items()]
        self._client.registry.add_mesh(self._mesh, {rank: {} for rank in self._ranks})
        if self._shown_ranks:
            chosen = [rank for local_rank, rank in zip(envs, self._ranks, strict=True) if local_rank in self._shown_ranks]
            self._console.filters[:] = [RanksFilter(chosen)]
        for (local_rank, env), rank in zip(envs.items(), self._ranks, strict=True):
            env[settings.ADDRESS] = self._client.address
            if functions:
                continue
            readers, writers = {}, []
            for name, paths in (("stdout", places.stdouts), ("stderr", places.stderrs)):
                readers[name], writer = make_pipe()
                writers.append(writer)
                paths[local_rank] = f"/dev/fd/{writer}"  # which the agent opens, as it would a file
            # Whoever starts workers here tells nobody their pids.
            self._client.adopt(0, rank, local_rank, readers, self._mesh)
            env.update({**settings.captured({**os.environ, **env}), **settings.pipes(rank, writers)})
            self._writers += writers
        return places

    def _end_attempt(self) -> None:
        """Take leave of the workers that were started last: torchrun starts all anew when one has failed."""
        for rank in self._ranks:
            self._client.report_exit(self._mesh, rank, 0)  # torchrun says how it was
        for writer in self._writers:
            os.close(writer)
        self._writers, self._ranks = [], []

    def _stop(self) -> None:
        self._end_attempt()
        self._client.stop()
        self._console.close()


def _each(chosen: Any) -> list[Any]:
    return list(chosen.values()) if isinstance(chosen, dict) else [chosen]
