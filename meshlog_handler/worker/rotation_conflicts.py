"""Rotation conflicts: processes of one parent that each rotate the same file with their own logs, which loses records."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

from ..protocol.digests import blake2b
from ..system.diagnostics import diagnose
from ..transport import run_directory
from ..transport.election import OF_LAUNCHER, Election

_held: Final[list[Election]] = []


def check(files: Sequence[str]) -> None:
    """Report, once for each parent process, that another process of the same parent rotates one of these files, too.

    The process must be a client that a configuration without a job has started.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError):  # no private directory: the client reports it
        for path in files:
            digest = blake2b(os.fsencode(path), digest_size=8).hexdigest()
            election = Election(f"{OF_LAUNCHER}{parent}-{digest}")
            if election.claim():
                _held.append(election)
            elif run_directory.tell_once(parent):
                diagnose(
                    f"other processes with the same parent rotate {path}, too, and each shows its own logs: records may be "
                    f'lost. Write job="NAME" beside "handlers" of the MeshHandler, and one process shows the logs of all.'
                )


def leave() -> None:
    """Note that this process does not show logs any more."""
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    while _held:
        _held.pop().forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
