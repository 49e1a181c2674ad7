"""ConsoleHandler: shows records on the terminal. RanksFilter: selects records by rank."""

from __future__ import annotations

import copy
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TextIO

from .. import settings
from ..lines.framer import display, keep_colours
from ..protocol.ranks import parse_ranks
from ..protocol.record import MeshInfo, info_of
from ..system.diagnostics import diagnose
from .formatter import DEFAULT_PREFIX, MeshFormatter
from .prompts import Bar, Item, KeptLines, Pending, is_prompt
from .terminal import Output
from .tqdm_bars import write_above

_CHARACTER: Final = 4  # bytes of a character in UTF-8, at most
_ERASE_LINE: Final = "\r\x1b[K"
_ERASE_ABOVE: Final = "\x1b[F\x1b[K"
_MAX_BARS: Final = 16
_MAX_KNOWN_BARS: Final = 4096
# The terminal cuts a text that is too wide, so that the cursor stays on its line.
_NO_WRAP: Final = "\x1b[?7l"
_WRAP: Final = "\x1b[?7h"

flushing_threads: Final[dict[int, set[ConsoleHandler]]] = {}
"""Threads that call `flush_shown` when no more records are ready, with what it flushes. On others, `emit` writes at once."""


keeping: Final[set[ConsoleHandler]] = set()
"""The consoles that have lines to write when a debugger does not wait any more. A client's thread looks for that."""


def flush_shown() -> None:
    """Flush the consoles that have got records on this thread, also from handlers that pass them on."""
    shown = flushing_threads.get(threading.get_ident())
    while shown:
        shown.pop().flush()


def show_kept() -> None:
    """Write what consoles keep because a debugger waits."""
    for console in tuple(keeping):
        console.show_kept()


def set_hint(handler: object, text: str) -> None:
    """Let a console say once how grouping is switched off (see `ConsoleHandler.hint`); "": do not."""
    if isinstance(handler, ConsoleHandler):
        handler.hint = text


class RanksFilter(logging.Filter):
    """Passes records of selected ranks, records at WARNING and above of all ranks, and records without a rank.

    Parameters
    ----------
    ranks : iterable of int or str
        The selected ranks. As a string: ``0,4-7``. An aggregated record passes if it contains records of a selected rank.

    Raises
    ------
    SettingError
        If the string does not name ranks.
    """

    def __init__(self, ranks: Iterable[int] | int | str) -> None:
        super().__init__()
        self.ranks = parse_ranks(ranks) if isinstance(ranks, str) else frozenset(settings.check_ranks(ranks) or ())

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record passes."""
        info = info_of(record)
        if info.rank is None or info.rank in self.ranks or record.levelno >= logging.WARNING:
            return True
        return not self.ranks.isdisjoint(info.ranks or ())


class ConsoleHandler(logging.Handler):
    """Writes captured stdout to stdout, and everything else to stderr, in the order of arrival.

    On a terminal, progress bars stay below the last line: those of ranks, and those that this process draws with tqdm. Each bar
    of a rank takes one line, and all of them together at most half of the screen. The last state of a bar becomes an ordinary
    line. Colours are kept and added on a terminal. While a debugger (pdb) of this process waits for input, a client's thread
    writes nothing to a terminal; it does so afterwards, or at a flush.

    Parameters
    ----------
    stdout, stderr : text file or None
        The outputs. None: ``sys.stdout`` and ``sys.stderr``, looked up at each record. If this process is captured, the
        original outputs.
    formatter : logging.Formatter or None
        None: a `MeshFormatter` with the rank as prefix, or without a prefix if ``MESHLOG_PREFIX_WITH_RANK`` is off.
    ranks_filter : RanksFilter, iterable of int, str or None
        The ranks to show. Records at WARNING and above are shown for all ranks.

    Attributes
    ----------
    flush_per_tick : bool
        True: the thread of a client writes with `flush`, when no more records are ready. On other threads, `emit` writes.
    failed : int
        Number of records that could not be written because the output is closed or broken. This is reported once.
    has_default_formatter : bool
        Whether the formatter is the default one.
    hung_up : Callable[[], None] or None
        Called on the writing thread when the reader of an output has closed it.
    hint : str
        Written once in this process, after the first aggregated record on a terminal: how grouping is switched off.
    reader : int or None
        The rank that reads the terminal; -1 is a process without a rank. While its last line is the prompt of a debugger,
        the lines of other ranks wait, at most 30 seconds.
    before_write : Callable[[TextIO], None] or None
        Called with a stream, on the writing thread, before each write. A notebook selects the cell here.

    Notes
    -----
    Any thread may call any method. A forked child discards the records that its parent has not written yet.
    """

    flush_per_tick = True
    max_pending = 256 * 1024  # characters and bytes after which they are written, also within a tick

    def __init__(
        self,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        formatter: logging.Formatter | None = None,
        ranks_filter: RanksFilter | Iterable[int] | str | None = None,
    ) -> None:
        self.has_default_formatter = formatter is None
        if formatter is None:
            formatter = MeshFormatter(prefix=DEFAULT_PREFIX if settings.prefix_with_rank() else None)
        if ranks_filter is not None and not isinstance(ranks_filter, RanksFilter):
            ranks_filter = RanksFilter(ranks_filter)
        self._max_line = settings.max_line_size()
        super().__init__()  # after what may fail: `logging` closes every handler at exit, also an incomplete one
        super().setFormatter(formatter)
        if ranks_filter is not None:
            self.addFilter(ranks_filter)
        self.failed = 0
        self.hung_up: Callable[[], object] | None = None
        self.before_write: Callable[[TextIO], None] | None = None
        self.hint = ""
        self.reader: int | None = None
        self.muted = False  # whether the client shows what is emitted now
        self._complained = False
        self._stdout, self._stderr = stdout, stderr
        self._outputs: dict[bool, Output] = {}
        self._pending: list[Pending] = []
        self._kept = KeptLines()
        self._size = 0
        # The progress states below the last line, how many lines of them are drawn, and where.
        self._bars: dict[Bar, Item] = {}
        self._drawn = 0
        self._screen: Output | None = None
        _consoles.add(self)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """Use this formatter, even for records of a `MeshHandler` that has its own formatter."""
        super().setFormatter(fmt)
        self.has_default_formatter = False

    def console_stream(self) -> TextIO | None:
        """Return the file for all but captured stdout."""
        return self._stderr or sys.stderr or sys.__stderr__

    def emit(self, record: logging.LogRecord) -> None:
        """Format and write the record (see `flush_per_tick`). Errors of the formatter are passed to `handleError`."""
        if self.muted:
            return
        try:
            info = info_of(record)
            if info.raw is not None and len(info.raw) > self._max_line // _CHARACTER:
                record = _displayed(record, info.raw, self._max_line)
            output = self._output(info.stream == "stdout")
            formatter = self.formatter
            item: Item | None
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
        passes = self._passes(info, str(record.msg) if info.partial else "")
        self._append(output, item, bar, progress, passes)
        if self.hint and info.count is not None and output.terminal and isinstance(formatter, MeshFormatter):
            if not _hinted:
                self._append(output, self.hint, None, False, False)
            self.hint, _hinted[:] = "", [True]
        shown = flushing_threads.get(threading.get_ident())
        if shown is not None:
            shown.add(self)
        elif self._kept:
            self._write_pending()  # of this process: what is kept waits
        else:
            self.flush()

    def show_line(self, text: str, info: MeshInfo, level: int) -> bool:
        """Show a text as `handle` shows a record with this message and no traceback, but without making the record.

        Return False if the result may depend on more of the record. Nothing is shown then.
        """
        kind, formatter = self.__class__, self.formatter
        if (
            level >= logging.WARNING
            or formatter.__class__ is not MeshFormatter
            or self.filters
            or kind.emit is not _EMIT
            or kind.handle is not _HANDLE
            or kind.filter is not _FILTER
            or not _OVERRIDABLE.isdisjoint(self.__dict__)
        ):
            return False
        self.acquire()
        try:
            output = self._output(info.stream == "stdout")
            item = formatter.line(text, info, colour=output.colour if formatter.colour is None else formatter.colour)
            if item is None:
                return False
            self._append(output, item, None, False, self._passes(info, ""))
            return True
        finally:
            self.release()

    def end_bar(self, record: logging.LogRecord) -> None:
        """Remove a progress bar, or keep its last state as a line, depending on the record.

        The client calls this for the last line of a bar if it does not pass that line to `emit`, or not yet.
        """
        info = info_of(record)
        output = self._output(info.stream == "stdout")
        if output.terminal:
            self.acquire()
            try:
                bar = _bar_of(record, info)
                self._append(output, None if info.bar_ends == "kept" else "", bar, True, self._passes(info, ""))
            finally:
                self.release()

    def _passes(self, info: MeshInfo, incomplete: str) -> bool:
        """Return whether a record may be written at the prompt of a captured debugger: it is of the same process."""
        if self.reader is None or self.reader != (-1 if info.rank is None else info.rank):
            return False
        if info.stream == "stdout":
            self._kept.prompt = is_prompt(incomplete)
        return True

    def _append(self, output: Output, item: Item | None, bar: Bar | None, progress: bool, passes: bool) -> None:
        pending = self._pending
        if progress and item and pending and pending[-1][3] and pending[-1][2] == bar and pending[-1][1]:
            pending.pop()  # replaced before it was drawn
        pending.append((output, item, bar, progress, passes))
        self._size += len(item or "")
        if self._size > self.max_pending:
            self.flush()

    def _output(self, to_stdout: bool) -> Output:
        # Looked up each time: notebooks, test runners and redirect_stdout replace them.
        names = (self._stdout, sys.stdout, sys.__stdout__) if to_stdout else (self._stderr, sys.stderr, sys.__stderr__)
        stream = names[0] or names[1] or names[2]
        output = self._outputs.get(to_stdout)
        if output is None or not output.is_of(stream):
            output = self._outputs[to_stdout] = Output(stream)
        return output

    def flush(self) -> None:
        """Write all emitted records. A closed or broken output raises no error; see `failed`.

        While a debugger waits, the thread of a client keeps what is for a terminal.
        """
        self.acquire()
        try:
            if threading.get_ident() not in flushing_threads:
                self._take_kept()
            elif self._kept or any(output.terminal for output in self._outputs.values()):
                if self.reader is None:
                    self._kept.prompt = False  # it has ended
                self._pending = self._kept.passing(self._pending)
                (keeping.add if self._kept else keeping.discard)(self)
            self._write_pending()
        finally:
            self.release()

    def show_kept(self) -> None:
        """Write what is kept because a debugger waits."""
        self.acquire()
        try:
            self._take_kept()
            self._write_pending()
        finally:
            self.release()

    def _take_kept(self) -> None:
        self._pending[:0] = self._kept.take()
        keeping.discard(self)

    def _write_pending(self) -> None:
        self.acquire()
        try:
            pending, self._pending, self._size = self._pending, [], 0
            for output, parts, count in self._runs(pending):
                if output.terminal:
                    write_above(output.stream, partial(self._write, output, parts, count))
                else:
                    self._write(output, parts, count)
        finally:
            self.release()

    def close(self) -> None:
        """Write all emitted records, and remove the handler from logging's registry."""
        self.finish()
        super().close()

    def finish(self) -> None:
        """Write all emitted records. Progress bars on the screen stay there. Does not wait for the lock of `logging`."""
        self.flush()
        self.acquire()
        try:
            self.show_kept()
            if self._screen is not None and self._drawn:
                self._write(self._screen, ["\n"], 0)
            self._bars.clear()
            self._drawn = 0
        finally:
            self.release()

    def _runs(self, pending: list[Pending]) -> Iterable[_Run]:
        """Join the items of each output where their visible order allows it, and add the control sequences for bars."""
        runs: list[_Run] = []
        bars, changed = self._bars, 0
        if not bars and not self._drawn and pending:  # nothing but lines for one output, as in most cases
            first = pending[0][0]
            lines = [item for output, item, bar, progress, _ in pending if output is first and bar is None and not progress]
            if len(lines) == len(pending) and None not in lines:
                parts: list[str | bytes] = [
                    line + "\n" if isinstance(line, str) else line + b"\n" for line in lines if line is not None
                ]
                return [(first, parts, len(parts))]
        for output, item, bar, progress, _ in pending:
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
        """Return whether bars of `output` can be drawn. All bars are drawn on one screen."""
        if self._screen is None or (not self._bars and not self._drawn):
            self._screen = output
        return not _apart(self._screen, output)

    def _erase(self, runs: list[_Run], output: Output) -> None:
        if self._drawn:  # line by line: when a screen is cleared, tmux moves its text into the scrollback
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
            # A reader that closes its pipe (head, a pager) is normal, and not reported.
            if not self._complained and not output.broken:
                self._complained = True
                name = getattr(output.stream, "name", None)  # "<stdout>"
                named = name.strip("<>") if isinstance(name, str) else repr(output.stream)
                diagnose(f"{named} cannot be written: {failure}. Its output is lost.")


_EMIT: Final = ConsoleHandler.emit
_HANDLE: Final = logging.Handler.handle
_FILTER: Final = logging.Handler.filter
_OVERRIDABLE: Final = frozenset(("handle", "emit", "filter", "format", "acquire"))

_Run = tuple[Output, list[str | bytes], int]


def _displayed(record: logging.LogRecord, raw: str, max_line: int) -> logging.LogRecord:
    """Return the record of a captured line as it is displayed: cut if it is long."""
    shown = copy.copy(record)
    shown.msg = display(raw.encode("utf-8", "surrogateescape"), max_line)
    return shown


def _bar_of(record: logging.LogRecord, info: MeshInfo) -> Bar:
    """Return the key of a bar. Bars are drawn in the order of their keys."""
    rank = -1 if info.rank is None else info.rank
    return rank, info.stream or "", info.bar or 0, record.process or 0, info.hostname or ""


def _apart(one: Output, other: Output) -> bool:
    """Return whether two outputs are known to lead to different files."""
    return one.place is not None and other.place is not None and one.place != other.place


def _add(runs: list[_Run], output: Output, part: str | bytes, count: int) -> None:
    """Add a part to the last run of its output, unless a later run may lead to the same file; then begin a new run."""
    for index in range(len(runs) - 1, -1, -1):
        known, parts, so_far = runs[index]
        if known is output:
            parts.append(part)
            runs[index] = known, parts, so_far + count
            return
        if not _apart(known, output):
            break
    runs.append((output, [part], count))


_hinted: Final[list[bool]] = []
_consoles: weakref.WeakSet[ConsoleHandler] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    keeping.clear()
    flushing_threads.clear()  # a new thread may have the number of one of the parent
    for console in tuple(_consoles):
        console._pending, console._size, console._kept = [], 0, KeptLines()
        console._bars, console._drawn, console._screen = {}, 0, None


os.register_at_fork(after_in_child=_after_fork_in_child)
