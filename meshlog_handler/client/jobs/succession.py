"""Succession: what earlier clients of a job have left to this one, and what this one leaves to the next. Client thread only."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

from ...errors import ProtocolError
from ...journal.shown import SUFFIX, ShownMark, shown_path
from ...protocol.immutable import Immutable
from ...protocol.messages import Hello
from ...system.error_reports import Tell, describe
from ...system.lock_files import is_held
from ...system.waits import monotonic
from ...transport.run_directory import is_left, lives, of_job, remove_read
from .shown_files import ShownFiles, were_written

_LOOK_SEC: Final = 0.25
_LONG_LOOK_SEC: Final = 5.0
_OFTEN: Final = 40
_ENDING_SEC: Final = 5.0
_ENDING_LOOK_SEC: Final = 0.005


class Leftover(Immutable):
    """The journal of a process that has ended, of which an earlier client has not shown all."""

    journal: str
    mark: ShownMark
    hello: Hello
    rank: int | None


class Succession:
    """The journals of one job, and how far they were shown. `directory` is the run directory of this client.

    `tell` reports what the processes cause.
    """

    def __init__(self, job: str, directory: str, tell: Tell) -> None:
        self.job = job
        self._tell = tell
        self.files = ShownFiles(os.path.join(directory, "files"))
        self._taken: set[str] = set()
        self._joined = {os.getpid()}  # processes that have joined this client: they make no journal for an earlier one
        self._looks = 0
        self._left = [path for path in of_job(job) if path != directory]
        deadline = monotonic() + _ENDING_SEC
        while not all(map(is_left, self._left)) and monotonic() < deadline:
            time.sleep(_ENDING_LOOK_SEC)  # the kernel closes the files of a killed process one by one
        for journal in self._journals():  # before this client writes to the files
            with contextlib.suppress(OSError, ProtocolError), _opened(journal) as mark:  # it is left out below, too
                doubt = mark.in_doubt
                if doubt is not None:
                    mark.settle(written=were_written(mark.table, *doubt))
        remove_read(self._left)
        self.due: float | None = 0.0 if self._left else None

    def _journals(self) -> list[str]:
        found = []
        for directory in self._left:
            with contextlib.suppress(OSError):  # it is gone
                names = sorted(os.listdir(directory))
                found += [os.path.join(directory, name.removesuffix(SUFFIX)) for name in names if name.endswith(SUFFIX)]
        return found

    def mark(self, hello: Hello, rank: int | None, journal: str) -> ShownMark | None:
        """Return the mark of a process that joins: a new one, or that of the journal which it resumes.

        Raises `ProtocolError` if it cannot resume that journal.
        """
        mark = None
        if self.due is not None:
            self._joined.add(hello.pid)
        try:
            if hello.resumes:
                if hello.resumes in self._taken or hello.resumes not in self._journals():
                    raise ProtocolError("a process resumes a journal that the last client of this job has not left")
                mark = ShownMark.open(hello.resumes)
                self._taken.add(hello.resumes)
            elif journal:
                mark = ShownMark.create(journal, {"hello": hello.fields(), "rank": rank})
            else:
                return None
            mark.table = self.files.path
        except OSError as failure:
            if mark is not None:
                mark.close()
            text = f"if this process is killed, records of pid {hello.pid} are lost with it or shown twice: {failure}"
            self._tell("if this process is killed, records of others are lost with it or shown twice", text)
            return None
        return mark

    def ended(self, now: float) -> Iterator[Leftover]:
        """Yield the journals of processes that have ended without another client, from time to time."""
        if self.due is None or now < self.due:
            return
        waiting = False
        for journal in self._journals():
            if journal in self._taken:
                continue
            if is_held(journal):  # its process may resume it
                waiting = True
                continue
            self._taken.add(journal)
            mark = None
            try:
                mark = ShownMark.open(journal)
                about = mark.about()
                hello = Hello(**about["hello"])
                hello.check()
                rank = about["rank"]
                makes_it = lives(hello.pid) and hello.pid not in self._joined
                if not os.path.exists(journal):  # the client was killed while its process joined
                    mark.close()
                    if makes_it:
                        self._taken.discard(journal)
                        waiting = True
                    else:
                        os.unlink(mark.path)
                        remove_read(self._left)
                    continue
                if not (rank is None or isinstance(rank, int)):
                    raise ProtocolError(f"invalid rank {rank!r}")
                mark.table = self.files.path
            except Exception as failure:  # anything may be in the file
                if mark is not None:
                    mark.close()
                text = f"{journal} of an earlier process of job {self.job!r} cannot be read: {describe(failure)}"
                self._tell("the journal of an earlier process of a job cannot be read", text)
                with contextlib.suppress(OSError):  # it is gone
                    os.unlink(shown_path(journal))  # the next client needs not report it again
                continue
            yield Leftover(journal, mark, hello, rank)
        self._looks += 1
        self.due = now + (_LOOK_SEC if self._looks < _OFTEN else _LONG_LOOK_SEC) if waiting else None

    def note_end(self) -> None:
        """Note that all of a journal was shown, and that it was removed."""
        remove_read(self._left)

    def close(self) -> None:
        """Close the table of the files."""
        self.files.close()


@contextlib.contextmanager
def _opened(journal: str) -> Iterator[ShownMark]:
    mark = ShownMark.open(journal)
    try:
        yield mark
    finally:
        mark.close()
