"""Findings: the insight into a run that is over, from its events instead of a running client. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from ...grouping.tracebacks import HEAD
from ...insight.observation import Observation
from ...insight.report import Insight, insight_of
from ...insight.watch import Watch
from ...protocol.decode import Item
from .events import CLIENT, Event, headline, outer

_BATCH: Final = 200
_GAP_SEC: Final = 0.25
_EXIT: Final = re.compile(r"(rank \d+ \(pid \d+\) (?:ended by|is gone)[^;\n]*)")
_TRACEBACK: Final = re.compile(rf"^(?! +\|).*{re.escape(HEAD)}\n", re.MULTILINE)
_FRAME: Final = re.compile(r'^\s+File "(.*)", line (\d+)', re.MULTILINE)
_REPORTER: Final = "meshlog"


class _Template:
    """What a `Watch` asks of the template of a record; the values of a record are its text."""

    captured = False

    def __init__(self, level: int) -> None:
        self.levelno = level

    def text(self, values: Any) -> str:
        return headline(str(values))

    def failure(self, values: Any) -> tuple[Any, ...] | None:
        """Return the last exception in a text, as a record carries it."""
        _, *traces = _TRACEBACK.split(str(values))
        if not traces:
            return None
        lines = outer(traces[-1])
        ends = [line for line in lines if line and not line.startswith(" ")]
        name, _, message = (ends[0] if ends else "").partition(": ")
        frames = [(file, int(line[:9])) for file, line in _FRAME.findall("\n".join(lines))]
        return ("", "builtins", name or "Traceback", message, "", frames)


class _Batch:
    """Records as `Watch` takes them."""

    def __init__(self, texts: Iterable[Item]) -> None:
        self.touched: list[Item] = []
        self.texts = list(texts)


class Findings:
    """Collects what `insight` then tells. Not thread-safe."""

    def __init__(self) -> None:
        self._watches: dict[int, Watch] = {}
        self._counts: dict[int, list[int]] = {}
        self._seen: dict[int, tuple[float, str]] = {}
        self._ends: dict[int, str] = {}
        self._templates: dict[int, _Template] = {}

    def add(self, rank: int, events: Iterable[Event]) -> None:
        """Take events of one rank, in order of time."""
        batch: list[Event] = []
        for event in events:
            if batch and (len(batch) >= _BATCH or event.time - batch[-1].time > _GAP_SEC):
                self._add(rank, batch)
                batch = []
            batch.append(event)
        if batch:
            self._add(rank, batch)

    def _add(self, rank: int, events: Sequence[Event]) -> None:
        if rank == CLIENT:
            return
        told = [event for event in events if not self._is_exit(rank, event)]
        if not told:
            return
        counts = self._counts.setdefault(rank, [0, 0, 0, 0])
        captured = sum(event.captured for event in told)
        counts[0] += len(told) - captured
        counts[1] += captured
        counts[2] += sum(logging.WARNING <= event.level < logging.ERROR for event in told)
        counts[3] += sum(event.level >= logging.ERROR for event in told)
        self._seen[rank] = max(self._seen.get(rank, (0.0, "")), (told[-1].time, told[-1].text))
        watch = self._watches.setdefault(rank, Watch())
        items: list[Any] = [(event.time, self._template(event.level), event.text) for event in told]
        watch.add_records(_Batch(items), told[-1].time, counts[0] + counts[1])

    def _is_exit(self, rank: int, event: Event) -> bool:
        """Note how a rank ended, if the event reports it."""
        found = _EXIT.match(event.text) if event.source == _REPORTER else None
        if found is None:
            return False
        if event.level >= 40:
            self._ends[rank] = found[1]
        return True

    def _template(self, level: int) -> _Template:
        template = self._templates.get(level)
        if template is None:
            template = self._templates[level] = _Template(level)
        return template

    def insight(self, now: float) -> Insight:
        """Return the insight at the time `now`, the end of the run."""
        observations = []
        for rank in {*self._watches, *self._ends}:
            when, line = self._seen.get(rank, (now, ""))
            records, lines, warnings, errors = self._counts.get(rank, (0, 0, 0, 0))
            made = Observation(
                rank,
                "dead" if rank in self._ends else "running",
                max(0.0, now - when),
                last_line=headline(line),
                records=records,
                lines=lines,
                end=self._ends.get(rank, ""),
            )
            if rank in self._watches:
                made = made.with_seen(self._watches[rank].seen(_Batch(())), now)
                made = replace(made, warnings=warnings, errors=errors)
            observations.append(made)
        return insight_of(observations)
