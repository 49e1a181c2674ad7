"""Reads the log directory of a run: the files of each rank, rotated ones included, and journals. Read-only."""

from __future__ import annotations

import gzip
import heapq
import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any, BinaryIO, Final, NamedTuple, cast

from ...lines.framer import level_of
from ..messages import CommandError
from ..view.tail import NoJournals, read_tails
from .birth_time import birth_time
from .events import CLIENT, Event, joined

_NAME: Final = re.compile(r"(?:rank-(\d{1,7})|client)(?:\.(\d+))?\.(log|stdout|stderr)(?:\.(\d+)(?:\.gz(?:\.part)?)?)?")
_RECORD: Final = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) (Level \d+|[^ ]+) ([^:]*): (.*)", re.DOTALL)
_STAMP: Final = re.compile(r".{0,40}?(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?(?!\d)")
_MAX_LINE: Final = 8 << 20
_MAX_TEXT: Final = 16 << 10
_MAX_JOURNAL: Final = 100_000


class NoLogs(CommandError):
    """Caller error: the directory has neither files of ranks nor journals."""


class _File(NamedTuple):
    path: str
    kind: str
    writer: int  # several clients may have the same directory
    rotated: int
    modified: float
    made: float | None  # its first line was written then


class LogDirectory:
    """The files of a log directory, by rank. `estimated` counts lines whose time is not in the file."""

    def __init__(self, directory: str, complain: Callable[[str], None]) -> None:
        self.estimated = 0
        self._complain = complain
        self._files: dict[int, list[_File]] = {}
        self._journals: dict[int, list[Event]] = {}
        for entry in os.scandir(directory):
            match = _NAME.fullmatch(entry.name)
            if match is not None and entry.is_file():
                rank = CLIENT if match[1] is None else int(match[1])
                kind, writer, rotated = match[3], int(match[2] or 1), int(match[4] or 0)
                file = _File(entry.path, kind, writer, rotated, entry.stat().st_mtime, birth_time(entry.path))
                self._files.setdefault(rank, []).append(file)
        try:
            self._read_journals(directory)
        except NoJournals:
            if not self._files:
                raise NoLogs(f"no files of ranks and no journals in {directory}. Name the --log-dir of a run") from None
        self._start = min(
            [*(file.made or file.modified for each in self._files.values() for file in each), os.stat(directory).st_mtime]
        )
        timed = [first for files in self._files.values() for file in files if (first := _first_time(file)) is not None]
        self._start = min([self._start, *timed, *(event.time for each in self._journals.values() for event in each)])

    @property
    def ranks(self) -> list[int]:
        """The ranks that have files or journals."""
        return sorted({*self._files, *self._journals})

    def events(self, rank: int) -> Iterator[Event]:
        """Yield what a rank logged and printed, in order of time."""
        found: dict[tuple[str, int], list[_File]] = {}
        for file in sorted(self._files.get(rank, ()), key=lambda file: (file.kind, file.writer, -file.rotated)):
            found.setdefault((file.kind, file.writer), []).append(file)
        streams = [
            self._records(rank, files) if kind == "log" else joined(self._lines(rank, kind, files))
            for (kind, _), files in found.items()
        ]
        merged: Iterable[Event] = heapq.merge(*streams, key=itemgetter(0))
        journal = self._journals.get(rank)
        return iter(merged) if not journal else _with_journal(merged, journal)

    # -- files -------------------------------------------------------------------------------------------------------

    def _records(self, rank: int, files: list[_File]) -> Iterator[Event]:
        """Yield the records of text or JSON files. A line without a time and a level belongs to the record before it."""
        event: Event | None = None
        rest: list[str] = []
        size = 0
        for file in files:
            for raw in self._raw(file):
                found = _json_event(rank, raw) if raw.startswith(b"{") else _text_event(rank, raw)
                if found is None:
                    if event is not None and size < _MAX_TEXT:
                        rest.append(raw.decode("utf-8", "backslashreplace"))
                        size += len(raw)
                    continue
                if event is not None:
                    yield event._replace(text="\n".join((event.text, *rest))) if rest else event
                event, rest, size = found, [], 0
        if event is not None:
            yield event._replace(text="\n".join((event.text, *rest))) if rest else event

    def _lines(self, rank: int, kind: str, files: list[_File]) -> Iterator[Event]:
        """Yield captured lines. A line without a time in its text has one between those of its neighbours, by its place."""
        since = self._start
        for file in files:
            since = max(since, file.made or since)
            until = max(since, file.modified)
            size = max(1, _size(file.path))
            at, last = 0, since
            for raw in self._raw(file):
                at += len(raw) + 1
                text = raw.decode("utf-8", "backslashreplace")
                when = _stamp(text) if len(text) > 18 else None
                if when is None or not since - 1.0 <= when <= until + 1.0:
                    when = since + (until - since) * min(1.0, at / size)
                    self.estimated += 1
                last = max(last, when)
                yield Event(last, rank, level_of(text), kind, text)
            since = until

    def _raw(self, file: _File) -> Iterator[bytes]:
        try:
            with _open(file.path) as opened:
                while line := opened.readline(_MAX_LINE):
                    yield line.rstrip(b"\r\n")
        except (OSError, EOFError, zlib.error) as failure:
            reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else failure
            self._complain(f"{file.path} cannot be read: {reason}")

    # -- journals ----------------------------------------------------------------------------------------------------

    def _read_journals(self, directory: str) -> None:
        for tail in read_tails(directory, _MAX_JOURNAL, None, self._complain):
            rank = CLIENT if tail.rank is None else tail.rank
            events = []
            for _, template, values in tail.items:
                record = template.build(values)
                try:
                    text = record.getMessage()
                except Exception as failure:  # the journal is not trusted
                    text = f"[a record that cannot be formatted: {type(failure).__name__}]"
                text = f"{text}\n{record.exc_text}" if record.exc_text else text
                events.append(Event(record.created, rank, record.levelno, record.name, text))
            self._journals[rank] = events


def _with_journal(events: Iterable[Event], journal: list[Event]) -> Iterator[Event]:
    """Yield the events, and those of the journal that are not among them: the client died before it wrote them."""
    known: dict[tuple[int, str], int] = {}
    since = min(event.time for event in journal) - 1.0
    for event in events:
        if event.time >= since and not event.captured:
            key = _identity(event)
            known[key] = known.get(key, 0) + 1
        yield event
    for event in journal:
        ms, text = _identity(event)
        same = next((near for near in ((ms, text), (ms - 1, text), (ms + 1, text)) if known.get(near)), None)
        if same is None:
            yield event
        else:
            known[same] -= 1


def _identity(event: Event) -> tuple[int, str]:
    return round(event.time * 1000), f"{event.level} {event.source} {event.text[:200].partition(chr(10))[0]}"


_days: dict[bytes | str, float] = {}


def _seconds_of(stamp: bytes | str) -> float | None:
    """Return a local time such as ``2026-01-31 23:59:59``, in seconds since the epoch."""
    known = _days.get(stamp)
    if known is None:
        if len(_days) > 100_000:
            _days.clear()
        text = stamp.decode() if isinstance(stamp, bytes) else stamp
        try:
            known = time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))
        except (ValueError, OverflowError):  # the digits are not those of a date
            return None
        _days[stamp] = known
    return known


def _text_event(rank: int, raw: bytes) -> Event | None:
    found = _RECORD.match(raw)
    if found is None:
        return None
    stamp, ms, level, name, text = found.groups()
    seconds = _seconds_of(stamp)
    if seconds is None:
        return None
    decoded = text.decode("utf-8", "backslashreplace")
    return Event(seconds + int(ms) / 1000, rank, _level(level.decode()), name.decode("utf-8", "backslashreplace"), decoded)


def _json_event(rank: int, raw: bytes) -> Event | None:
    try:
        found: Any = json.loads(raw)
        when = datetime.fromisoformat(str(found["timestamp"]).removesuffix("Z")).replace(tzinfo=timezone.utc).timestamp()
        text = str(found["message"])
        if found.get("exc_text"):
            text += f"\n{found['exc_text']}"
        return Event(when, rank, _level(str(found["level"])), str(found.get("stream") or found["name"]), text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # not one of our objects
        return None


def _level(name: str) -> int:
    level = logging.getLevelName(name)
    if isinstance(level, int):
        return level
    digits = name.rpartition(" ")[2]
    return int(digits[:4]) if digits.isdecimal() else logging.INFO


def _open(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.endswith(".gz") else open(path, "rb")


def _size(path: str) -> int:
    """Return the size of what `_open` reads."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if path.endswith(".gz") and size > 4:
            file.seek(-4, os.SEEK_END)
            size = int.from_bytes(file.read(4), "little")
    return size


def _stamp(text: str) -> float | None:
    found = _STAMP.match(text)
    if found is None:
        return None
    seconds = _seconds_of(f"{found[1]} {found[2]}")
    return None if seconds is None else seconds + float(f"0.{found[3] or 0}")


def _first_time(file: _File) -> float | None:
    """Return the time of the first record of a file, or None."""
    if file.kind != "log":
        return None
    try:
        with _open(file.path) as opened:
            raw = opened.readline(_MAX_LINE)
    except (OSError, EOFError, zlib.error):  # reported when it is read
        return None
    found = _json_event(0, raw) if raw.startswith(b"{") else _text_event(0, raw)
    return None if found is None else found.time
