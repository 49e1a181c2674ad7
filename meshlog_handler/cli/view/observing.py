"""Finds the run that a command names, and joins it as an observer."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ... import settings
from ...errors import MeshlogError, printable
from ...system.waits import deadline_after, ended, seconds_until
from ...transport.runs import Run, runs
from ..messages import CommandError
from .observer import Observer

_SHOWN: Final = 60
_MAX_LISTED: Final = 5
_LOOK_SEC: Final = 2.0


class NoRun(CommandError):
    """Caller error: no run has this name, or more than one has. The text lists the runs."""


def choose(name: str | None, found: Sequence[Run] | None = None) -> Run:
    """Return the run with this pid, or whose command, or a part of a word of it, begins with `name`; None: the only one.

    `found` are the runs to choose from; None: all. Raises `NoRun`.
    """
    known = runs() if found is None else found
    if not known:
        raise NoRun(
            "no running client of this user was found. Start one, for instance by meshlog run -n 4 -- python train.py. "
            f"One with {settings.OBSERVE}=0 or another {settings.RUN_DIR} is not found"
        )
    if name is None:
        matching = list(known)
    else:
        matching = [run for run in known if str(run.pid) == name] or [run for run in known if _begins(run.command, name)]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(f"{run.pid} ({printable(run.command, _SHOWN)})" for run in (matching or known)[:_MAX_LISTED])
    more = len(matching or known) - _MAX_LISTED
    listed += f" and {more} more (meshlog ls lists all)" if more > 0 else ""
    if not matching:
        raise NoRun(f"no run {printable(str(name), _SHOWN)!r}. RUN is a pid, or the beginning of a command: {listed}")
    raise NoRun(f"{len(matching)} runs{'' if name is None else ' match'}. Name one by its pid: {listed}")


def _begins(command: str, name: str) -> bool:
    """Return whether the command, a word, or what follows a slash or a dot in a word, begins with `name`."""
    return re.search(rf"(?:^|[\s/.]){re.escape(name)}", command) is not None


@contextlib.contextmanager
def joined(name: str | None) -> Iterator[Observer]:
    """Yield an observer of the run with this name (None: the only one)."""
    with Observer.connect(choose(name)) as observer:
        yield observer


def described(found: Sequence[Run], timeout: float = _LOOK_SEC) -> list[dict[str, Any]]:
    """Return what each run says about itself; only what its file says if it does not answer within `timeout` seconds."""
    unknown = {"ranks": None, "live": None, "records": None}
    told: list[dict[str, Any]] = [{"pid": each.pid, "command": each.command, "since": each.since, **unknown} for each in found]

    def ask(index: int) -> None:
        with (
            contextlib.suppress(MeshlogError, KeyError),
            Observer.connect(found[index]) as observer,
        ):  # it has ended
            about = observer.about()
            counts = {"ranks": len(about["ranks"]), "live": len(about["live"]), "records": about["records"]}
            told[index] = {**told[index], **counts}

    threads = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(len(found))]
    for thread in threads:
        thread.start()
    deadline = deadline_after(timeout)
    for thread in threads:
        ended(thread, seconds_until(deadline))
    living = {run.path for run in runs()}
    return [each for run, each in zip(found, told, strict=True) if run.path in living]
