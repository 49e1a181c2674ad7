"""RankFiles: a complete file per rank and stream, independent of the console. RankFile: one of these files."""

from __future__ import annotations

import gzip
import logging
import math
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from io import FileIO
from logging.handlers import RotatingFileHandler, TimedRotatingFileHandler
from typing import Final

from ..lines.framer import strip_ansi
from ..settings import Rotation
from ..system.descriptors import Held, never_freed
from ..system.lock_files import lock

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_MAX_PENDING: Final = 1 << 20
_MAX_NAMES: Final = 100
_ROTATION: Final = Rotation()


class RankFile(RotatingFileHandler):
    """A file of complete lines, given as bytes. Rotates between two lines, as `RotatingFileHandler` does.

    The file exceeds `rotation.max_bytes` only for a single longer line, or if it cannot be rotated; `complain` receives that
    error. It is not rotated if `backup_count` is 0. Rotated files are compressed on a separate thread. Any thread may call any
    method. Nothing is buffered, so a forked child writes nothing twice. The first write opens the file, also after `close`:
    ``logging.config`` closes all handlers.
    """

    stream: FileIO | None  # type: ignore[assignment]  # text in the base class

    def __init__(self, filename: str, rotation: Rotation, complain: Callable[[OSError], None]) -> None:
        super().__init__(filename, "a", rotation.max_bytes, rotation.backup_count, encoding="utf-8", delay=True)
        self._complain = complain
        self._wanted = self.baseFilename
        self._limit = rotation.max_bytes if rotation.backup_count > 0 else 0
        self._times: TimedRotatingFileHandler | None = None  # computes when to rotate
        if rotation.when and rotation.backup_count > 0:
            self._times = TimedRotatingFileHandler(os.devnull, rotation.when, delay=True)
        self._due = math.inf
        self._compression: threading.Thread | None = None
        if rotation.compress:
            self.namer, self.rotator = _compressed_name, self._compress_soon
        self._held: Held | None = None
        self._size = 0
        self._torn = False

    def _open(self) -> FileIO:  # type: ignore[override]  # as `stream`
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        file = FileIO(self.baseFilename, "a")
        stem, extension = os.path.splitext(self._wanted)
        number = 2
        # A locked file belongs to another client. Two clients must not write and rotate the same file.
        while lock(file.fileno()) is False and number <= _MAX_NAMES:
            file.close()
            self.baseFilename = f"{stem}.{number}{extension}"
            file = FileIO(self.baseFilename, "a")
            number += 1
        self._held = Held(file.fileno())
        self._size = file.seek(0, os.SEEK_END)
        self._plan(os.fstat(file.fileno()).st_mtime if self._size else time.time())
        return file

    def _plan(self, since: float) -> None:
        """Set the time of the next rotation of a file that has lines since a time."""
        self._due = math.inf if self._times is None else self._times.computeRollover(int(since))

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record as text. Errors are passed to `handleError`."""
        try:
            self.append([f"{self.format(record)}\n".encode("utf-8", "backslashreplace")])
        except Exception:
            self.handleError(record)

    def append(self, lines: list[bytes]) -> None:
        """Append lines, each with its line feed, and remove them from `lines`.

        After an `OSError`, `lines` holds the lines that were not written.
        """
        self.acquire()
        try:
            self._let_go()
            while lines:
                if self.stream is None:
                    self.stream = self._open()
                if time.time() >= self._due:
                    self._plan(time.time())
                    if self._size:
                        self._rotate()
                        continue
                count = self._fitting(lines)
                if not count and self._size:
                    self._rotate()
                    continue
                self._write(lines, max(1, count))
        finally:
            self.release()

    def _fitting(self, lines: list[bytes]) -> int:
        if not self._limit or self._size + sum(map(len, lines)) <= self._limit:
            return len(lines)
        room = self._limit - self._size
        count = 0
        for line in lines:
            room -= len(line)
            if room < 0:
                break
            count += 1
        return count

    def _rotate(self) -> None:
        try:
            self.doRollover()
        except OSError as failure:
            self._limit, self._times, self._due = 0, None, math.inf
            self._complain(failure)

    def doRollover(self) -> None:
        """Rotate the files, once the last rotated one is compressed."""
        self._wait_compressed()
        if self.rotator is not None:
            target = self.rotation_filename(f"{self.baseFilename}.1")
            if os.path.exists(_plain(target)):  # its client was killed before it was compressed
                self._compress(_plain(target), target)
        super().doRollover()

    def close(self) -> None:
        """Close the file, and wait until the last rotated one is compressed."""
        self._let_go()
        super().close()
        self._wait_compressed()

    def forget(self) -> None:
        """In a forked child: close its copy of the file, since it holds the parent's lock."""
        self._compression = None
        self._let_go()
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def _let_go(self) -> None:
        """Forget the open file if the program has closed its descriptor."""
        if self.stream is not None and self._held is not None and not self._held.intact:
            never_freed.append(self.stream)
            self.stream = None

    def _wait_compressed(self) -> None:
        thread, self._compression = self._compression, None
        if thread is not None:
            thread.join()

    def _compress_soon(self, source: str, target: str) -> None:
        """Rename the rotated file, and compress it on another thread: it takes seconds, in which the client shows records."""
        plain = _plain(target)
        os.replace(source, plain)
        self._compression = threading.Thread(target=self._compress, args=(plain, target), name="meshlog-gzip", daemon=True)
        self._compression.start()

    def _compress(self, plain: str, target: str) -> None:
        made = f"{target}.making"
        try:
            with open(plain, "rb") as file, gzip.open(made, "wb", compresslevel=6) as packed:
                shutil.copyfileobj(file, packed)
            os.replace(made, target)  # a killed client leaves the plain file or the whole compressed one
            os.unlink(plain)
        except OSError as failure:
            self._complain(failure)

    def _write(self, lines: list[bytes], count: int) -> None:
        # After a full disk, the file may end in the middle of a line.
        lead = b"\n" if self._torn else b""
        data = lead + b"".join(lines[:count])
        written = 0
        try:
            while written < len(data):
                written += self.stream.write(data[written:] if written else data)  # type: ignore[union-attr]  # open
        finally:
            self._size += written
            if written:
                self._torn = not data[:written].endswith(b"\n")
            if written < len(data):
                written -= len(lead)
                count = 0
                while written >= len(lines[count]):
                    written -= len(lines[count])
                    count += 1
            del lines[:count]


def _plain(target: str) -> str:
    """Return the name of a rotated file until it is compressed."""
    return f"{target}.part"


def _compressed_name(name: str) -> str:
    return f"{name}.gz"


class RankFiles:
    """Writes everything to files, one per rank and kind: ``rank-3.log``, ``rank-3.stdout``, ``rank-3.stderr``.

    A captured line is written byte for byte, without escape sequences. Of a line that was rewritten by ``\\r``, only the last
    state is written. The files of the client, which has no rank, are named ``client.*``. Files of an earlier run are continued.

    One thread uses it. Lines and records are in the files after `flush`. A forked child discards those that its parent has not
    written yet. No method raises an `OSError`: `report` receives the first one as text, and `failed` counts lost lines and
    records.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        report: Callable[[str], None],
        rotation: Rotation = _ROTATION,
        max_open: int = 256,
        formatter: logging.Formatter | None = None,
    ) -> None:
        self.directory = os.path.abspath(directory)
        self.failed = self._told = 0
        self._report = report
        self._reported = False
        self._rotation = rotation
        self._max_open = max_open
        self._formatter = formatter or logging.Formatter(FORMAT)
        self._files: OrderedDict[tuple[int | None, str], RankFile] = OrderedDict()
        self._pending: dict[tuple[int | None, str], list[bytes]] = {}
        self._size = 0
        self._pid = os.getpid()

    def record(self, rank: int | None, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            text = self._formatter.format(record)
        except Exception as failure:
            text = f"[a record of {record.name} that cannot be formatted: {type(failure).__name__}]"
        self._add(rank, "log", strip_ansi(text.encode("utf-8", "backslashreplace")))

    def line(self, rank: int | None, stream: str, raw: bytes) -> None:
        """Write a captured line, given with or without its line ending."""
        raw = strip_ansi(raw)
        if b"\r" in raw:
            raw = raw.rstrip(b"\r\n").rpartition(b"\r")[2]
        self._add(rank, stream, raw.removesuffix(b"\n"))

    def _add(self, rank: int | None, kind: str, line: bytes) -> None:
        lines = self._pending.get((rank, kind))
        if lines is None:
            lines = self._pending[rank, kind] = []
        lines.append(line + b"\n")
        self._size += len(line)
        if self._size > _MAX_PENDING:
            self.flush()

    def flush(self) -> None:
        """Write all pending lines to the files."""
        pending, self._pending, self._size = self._pending, {}, 0
        if self._pid != os.getpid():
            return
        for key, lines in pending.items():
            try:
                self._file(key).append(lines)
            except OSError as failure:
                self.failed += len(lines)
                self._complain(failure)

    def _file(self, key: tuple[int | None, str]) -> RankFile:
        file = self._files.get(key)
        if file is not None:
            self._files.move_to_end(key)
            return file
        while len(self._files) >= self._max_open:
            self._files.popitem(last=False)[1].close()
        file = self._files[key] = RankFile(self._path(*key), self._rotation, self._complain)
        return file

    def _path(self, rank: int | None, kind: str) -> str:
        return os.path.join(self.directory, f"client.{kind}" if rank is None else f"rank-{rank}.{kind}")

    def _complain(self, failure: OSError) -> None:
        if not self._reported:
            self._reported = True
            self._report(f"{self.directory}: {failure}. Lost lines are counted; handlers still show them.")

    def forget(self) -> None:
        """In a forked child: close its copies of the files, since they hold the parent's locks."""
        self._pending.clear()
        for file in self._files.values():
            file.forget()

    def close(self) -> None:
        """Write all pending lines, close the files, and report how many lines were lost. Later lines open them again."""
        self.flush()
        if self._pid == os.getpid() and self.failed > self._told:
            self._report(f"{self.directory}: {self.failed - self._told} lines and records could not be written.")
            self._told = self.failed
        while self._files:
            self._files.popitem()[1].close()
