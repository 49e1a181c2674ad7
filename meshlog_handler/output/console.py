"""ConsoleHandler: shows records where a person looks. RanksFilter: chooses whose."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Final, TextIO

from .. import settings
from ..lines.framer import keep_colours
from ..protocol.ranks import parse_ranks
from ..protocol.record import MeshInfo, info_of
from ..system.fd_capture import diagnose
from .formatter import DEFAULT_PREFIX, MeshFormatter
from .terminal import Output

_MAX_PENDING: Final = 256 * 1024
_ERASE_LINE: Final = "\r\x1b[K"
_ERASE_ABOVE: Final = "\x1b[F\x1b[K"
_MAX_BARS: Final = 16
_MAX_KNOWN_BARS: Final = 4096
# A text too wide for the terminal is cut by it, so that the cursor stays on its line.
_NO_WRAP: Final = "\x1b[?7l"
_WRAP: Final = "\x1b[?7h"


class RanksFilter(logging.Filter):
    """Lets pass what some ranks say; of the others WARNING and above; and all that has no rank.

    Parameters
    ----------
    ranks : iterable of int or str
        The ranks; as a text, ``0,4-7``. An aggregated record passes if it speaks for one of them.

    Raises
    ------
    SettingError
        If the text does not name ranks.
    """

    def __init__(self, ranks: Iterable[int] | str) -> None:
        super().__init__()
        self.ranks = parse_ranks(ranks) if isinstance(ranks, str) else frozenset(ranks)

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record passes."""
        info = info_of(record)
        if info.rank is None or info.rank in self.ranks or record.levelno >= logging.WARNING:
            return True
        return not self.ranks.isdisjoint(info.ranks or ())


class ConsoleHandler(logging.Handler):
    """Shows captured stdout on stdout and all else on stderr, in the order it came.

    On a terminal, progress states stay below the last line, one line for each bar, as many as half of the screen has room for;
    the last state of a bar becomes a line. Colours are kept and added there.

    Parameters
    ----------
    stdout, stderr : text file or None
        Where to show it. None: what ``sys.stdout`` and ``sys.stderr`` are at the time; and where this process is
        itself captured, what they were before that.
    formatter : logging.Formatter or None
        None: a `MeshFormatter` with the rank as prefix, or without where ``MESHLOG_PREFIX_WITH_RANK`` is off.
    ranks_filter : RanksFilter, iterable of int, str or None
        Whose records to show; WARNING and above of the others is shown, too.

    Attributes
    ----------
    flush_per_tick : bool
        True: records are written at `flush`, which whoever calls `handle` has to call when there are no more at
        the moment.
    failed : int
        Records that could not be written: the output is closed or broken. Said once.
    has_default_formatter : bool
        Whether nobody chose the formatter.
    hung_up : Callable[[], None] or None
        Called when whoever read an output does not read it any more; on the thread that writes.
    before_write : Callable[[TextIO], None] or None
        Called with a stream, on the thread that is about to write there: a notebook chooses the cell.

    Notes
    -----
    Any thread may call any method. A forked child forgets what its parent has not yet written.
    """

    flush_per_tick = True

    def __init__(
        self,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        formatter: logging.Formatter | None = None,
        ranks_filter: RanksFilter | Iterable[int] | str | None = None,
    ) -> None:
        super().__init__()
        self.has_default_formatter = formatter is None
        if formatter is None:
            formatter = MeshFormatter(prefix=DEFAULT_PREFIX if settings.prefix_with_rank() else None)
        super().setFormatter(formatter)
        if ranks_filter is not None:
            self.addFilter(ranks_filter if isinstance(ranks_filter, RanksFilter) else RanksFilter(ranks_filter))
        self.failed = 0
        self.hung_up: Callable[[], object] | None = None
        self.before_write: Callable[[TextIO], None] | None = None
        self._complained = False
        self._stdout, self._stderr = stdout, stderr
        self._outputs: dict[bool, Output] = {}
        self._pending: list[tuple[Output, _Item | None, _Bar | None, bool]] = []
        self._size = 0
        # The progress states below the last line, how many lines of them are drawn, and where.
        self._bars: dict[_Bar, _Item] = {}
        self._drawn = 0
        self._screen: Output | None = None
        _consoles.add(self)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """Use this formatter, also for records of a `MeshHandler` that has one."""
        super().setFormatter(fmt)
        self.has_default_formatter = False

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record; `flush` writes it. An error of the formatter goes to `handleError`."""
        try:
            info = info_of(record)
            output = self._output(info.stream == "stdout")
            formatter = self.formatter
            item: _Item | None
            progress = False
            if isinstance(formatter, MeshFormatter):
                progress = output.terminal and info.progress
                item = formatter.verbatim(record)
                if item is None:
                    colour = output.colour if formatter.colour is None else formatter.colour
                    item = formatter.render(record, colour=colour, keep_ansi=colour or output.terminal)
                elif output.terminal:
                    item = keep_colours(item)
            else:
                item = self.format(record)
        except Exception:
            self.handleError(record)
            return
        bar = _bar_of(record, info) if progress or info.bar_ends is not None else None
        self._append(output, item, bar, progress)

    def end_bar(self, record: logging.LogRecord) -> None:
        """Draw a progress state no more. Its text stays as a line if the record says so.

        Called for a line that ends a bar and is not given to `emit`, or not yet.
        """
        info = info_of(record)
        output = self._output(info.stream == "stdout")
        if output.terminal:
            self.acquire()
            try:
                self._append(output, None if info.bar_ends == "kept" else "", _bar_of(record, info), True)
            finally:
                self.release()

    def _append(self, output: Output, item: _Item | None, bar: _Bar | None, progress: bool) -> None:
        pending = self._pending
        if progress and item and pending and pending[-1][3] and pending[-1][2] == bar and pending[-1][1]:
            pending.pop()  # nobody would see it
        pending.append((output, item, bar, progress))
        self._size += len(item or "")
        if self._size > _MAX_PENDING:
            self.flush()

    def _output(self, to_stdout: bool) -> Output:
        # Asked each time: notebooks, test runners and redirect_stdout replace them.
        names = (self._stdout, sys.stdout, sys.__stdout__) if to_stdout else (self._stderr, sys.stderr, sys.__stderr__)
        stream = names[0] or names[1] or names[2]
        output = self._outputs.get(to_stdout)
        if output is None or not output.is_of(stream):
            output = self._outputs[to_stdout] = Output(stream)
        return output

    def flush(self) -> None:
        """Write what was emitted. An output that is closed or broken is no error: see `failed`."""
        self.acquire()
        try:
            pending, self._pending, self._size = self._pending, [], 0
            for output, parts, count in self._runs(pending):
                self._write(output, parts, count)
        finally:
            self.release()

    def close(self) -> None:
        """Write what was emitted, and leave the progress states that are drawn where they are."""
        self.flush()
        self.acquire()
        try:
            if self._screen is not None and self._drawn:
                self._write(self._screen, ["\n"], 0)
            self._bars.clear()
            self._drawn = 0
        finally:
            self.release()
        super().close()

    def _runs(self, pending: list[tuple[Output, _Item | None, _Bar | None, bool]]) -> Iterable[_Run]:
        """Bring items to one output together, as far as nobody can see that; compose them with what moves the cursor."""
        runs: list[_Run] = []
        bars, changed = self._bars, 0
        for output, item, bar, progress in pending:
            if progress and item and bar is not None and self._is_on_screen(output):
                bars[bar] = item
                changed += 1
                if len(bars) > _MAX_KNOWN_BARS:
                    del bars[next(iter(bars))]
                continue
            known = bars.pop(bar, None) if bar is not None else None
            changed += known is not None
            if item is None:
                item = known
            if not item and progress:
                continue
            if self._screen is not None and self._drawn and not _apart(self._screen, output):
                self._erase(runs, output)
                changed += 1
            item = item or ""
            _add(runs, output, item + "\n" if isinstance(item, str) else item + b"\n", 1)
        if changed and self._screen is not None:
            self._draw(runs, self._screen)
        return runs

    def _is_on_screen(self, output: Output) -> bool:
        """Tell whether bars of an output are drawn: all of them in one place."""
        if self._screen is None or (not self._bars and not self._drawn):
            self._screen = output
        return not _apart(self._screen, output)

    def _erase(self, runs: list[_Run], output: Output) -> None:
        if self._drawn:  # line by line: from a screen that is cleared, tmux takes what is there into its scrollback
            _add(runs, output, _ERASE_LINE + _ERASE_ABOVE * (self._drawn - 1), 0)
            self._drawn = 0

    def _draw(self, runs: list[_Run], output: Output) -> None:
        self._erase(runs, output)
        if not self._bars:
            return
        room = max(1, min(_MAX_BARS, output.lines // 2))
        shown = [self._bars[bar] for bar in sorted(self._bars)]
        if len(shown) > room:
            shown[room - 1 :] = [f"... and {len(shown) - room + 1} more bars"]
        _add(runs, output, _NO_WRAP, 0)
        for number, item in enumerate(shown):
            if number:
                _add(runs, output, "\n", 0)
            _add(runs, output, item, 1)
        _add(runs, output, _WRAP, 0)
        self._drawn = len(shown)

    def _write(self, output: Output, parts: list[str | bytes], count: int) -> None:
        if output.broken:
            self.failed += count
            return
        try:
            if self.before_write is not None and output.stream is not None:
                self.before_write(output.stream)
            output.write(parts)
        except Exception as failure:
            self.failed += count
            output.broken = isinstance(failure, BrokenPipeError)
            if output.broken and self.hung_up is not None:
                self.hung_up()
            # A pipe whose reader has seen enough (head, a pager that was left) is nothing to talk about.
            if not self._complained and not output.broken:
                self._complained = True
                diagnose(f"{output.stream!r} cannot be written; what it should show is lost. {failure}")


_Item = str | bytes
_Run = tuple[Output, list[str | bytes], int]
_Bar = tuple[int, str, int, int, str]


def _bar_of(record: logging.LogRecord, info: MeshInfo) -> _Bar:
    """Return what tells a bar from others, and says in which order they are drawn."""
    rank = -1 if info.rank is None else info.rank
    return rank, info.stream or "", info.bar or 0, record.process or 0, info.hostname or ""


def _apart(one: Output, other: Output) -> bool:
    """Tell whether two outputs surely lead to different places."""
    return one.place is not None and other.place is not None and one.place != other.place


def _add(runs: list[_Run], output: Output, part: str | bytes, count: int) -> None:
    """Add a part to the run of its output; to an earlier one if only outputs elsewhere come between."""
    for index in range(len(runs) - 1, -1, -1):
        known, parts, so_far = runs[index]
        if known is output:
            parts.append(part)
            runs[index] = known, parts, so_far + count
            return
        if not _apart(known, output):
            break
    runs.append((output, [part], count))


_consoles: weakref.WeakSet[ConsoleHandler] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for console in tuple(_consoles):
        console._pending, console._size = [], 0
        console._bars, console._drawn, console._screen = {}, 0, None


os.register_at_fork(after_in_child=_after_fork_in_child)
