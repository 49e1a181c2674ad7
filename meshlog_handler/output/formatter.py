"""MeshFormatter: formats a record as text and prefixes each line with its rank."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from .. import settings
from ..lines.framer import keep_colours, strip_ansi
from ..protocol.ranks import format_ranks
from ..protocol.record import MeshInfo, info_of
from .prefix import Prefix

DEFAULT_PREFIX: Final = "[{rank}] "

_MESSAGE: Final = "%(message)s"
_OVERRIDABLE: Final = frozenset(("format", "formatMessage", "formatException", "formatStack", "usesTime", "render", "verbatim"))
_RESET: Final = "\x1b[0m"
_MAX_NAMED: Final = 40
_LEVEL_COLOURS: Final = (
    (logging.CRITICAL, "\x1b[1;31m"),
    (logging.ERROR, "\x1b[31m"),
    (logging.WARNING, "\x1b[33m"),
)


class MeshFormatter(logging.Formatter):
    """Formats a record as `logging.Formatter` does, and prefixes each line with the rank of the record.

    Lines of tracebacks and stacks are prefixed, too. A record without a rank (of the client) has no prefix. The text of an
    aggregated record names its ranks; its further lines begin with the ranks, such as ``[ranks 0-7]``.

    Parameters
    ----------
    fmt, datefmt, style, validate, defaults
        As in `logging.Formatter`, also by position, as `logging.config` passes them. The default format is the message alone.
    prefix : str or None
        A template for `str.format`, such as ``"[{hostname}:{rank}] "``. Fields: rank, local_rank, hostname,
        coords (or ``coords[gpus]``), stream (``log`` for a logging call), pid, process, processName, name,
        levelname, levelno, module, filename, funcName, lineno, thread, threadName, created, asctime. A field
        without a value is shown as ``-``. None: no prefix, and a captured line is shown exactly as it was written.
    colour : bool or None
        Colour the prefix by rank, and records at WARNING and above by level. None: the handler decides.
        `ConsoleHandler` uses colours on a terminal.

    Raises
    ------
    SettingError
        If `prefix` is not a valid template.

    Notes
    -----
    Any thread may use it.
    """

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        validate: bool = True,
        *,
        defaults: Mapping[str, Any] | None = None,
        prefix: str | None = DEFAULT_PREFIX,
        colour: bool | None = None,
    ) -> None:
        super().__init__(fmt, datefmt, style, validate, defaults=defaults)
        self.prefix = prefix
        self.colour = None if colour is None else settings.check_flag(colour, "colour")
        self._prefix = None if prefix is None else Prefix(prefix, lambda record: self.formatTime(record, datefmt))

    def format(self, record: logging.LogRecord) -> str:
        """Return the text: coloured if `colour` is True, otherwise with the colours of captured lines removed."""
        colour = self.colour is True
        return self.render(record, colour=colour, keep_ansi=colour)

    def render(self, record: logging.LogRecord, *, colour: bool, keep_ansi: bool) -> str:
        """Return the text for a known output.

        Parameters
        ----------
        record : logging.LogRecord
        colour : bool
            Whether to colour the text. Overrides the attribute `colour`.
        keep_ansi : bool
            Keep the colours of captured lines. With ``prefix=None``, every escape sequence is kept.
        """
        info = info_of(record)
        prefix = self._prefix
        if prefix is None and (raw := _raw(record, info)) is not None:
            return raw
        text = super().format(record)
        paint = ""
        if "\x1b" in text:
            if prefix is not None and info.stream is not None:
                strip = keep_colours if keep_ansi else strip_ansi
                text = strip(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
        elif colour and record.levelno >= logging.WARNING:
            paint = next(code for level, code in _LEVEL_COLOURS if record.levelno >= level)
        before = ""
        if prefix is not None and info.rank is not None and info.ranks is None:
            before = prefix.of(record, info, colour=colour)
        if "\n" in text:
            within = _shared_prefix(info.ranks) if prefix is not None and info.ranks else before
            text = text.replace("\n", f"{_RESET}\n{within}{paint}" if paint else "\n" + within)
        return before + paint + text + _RESET if paint else before + text

    def line(self, text: str, info: MeshInfo, *, colour: bool) -> str | None:
        """Return what `render` returns for a record below WARNING without a traceback whose message is `text`.

        Return None if that depends on more of the record: on its format, on fields in the prefix, or on escape sequences.
        """
        style, prefix = self._style, self._prefix
        if (
            "\x1b" in text
            or style.__class__ is not logging.PercentStyle
            or style._fmt != _MESSAGE
            or not _OVERRIDABLE.isdisjoint(self.__dict__)
            or (prefix is None and info.stream is not None)
        ):
            return None
        if info.ranks and "\n" in text:
            return None
        if prefix is None or info.rank is None or info.ranks is not None:
            return text
        before = prefix.known(info, colour=colour)
        if before is None:
            return None
        return before + (text.replace("\n", "\n" + before) if "\n" in text else text)

    def verbatim(self, record: logging.LogRecord) -> bytes | None:
        """Return the bytes of a captured line that is shown exactly as it was written, else None."""
        raw = _raw(record, info_of(record)) if self._prefix is None else None
        return None if raw is None else raw.encode("utf-8", "surrogateescape")


def _shared_prefix(ranks: Sequence[int]) -> str:
    """Return the prefix of the second and further lines of a record of several ranks."""
    named = format_ranks(ranks)
    return f"[{named}] " if len(named) <= _MAX_NAMED else f"[{len(ranks)} ranks] "


def _raw(record: logging.LogRecord, info: MeshInfo) -> str | None:
    # The text of an aggregated record differs from the raw bytes of its first line.
    if info.stream is None or info.ranks is not None:
        return None
    return record.getMessage() if info.raw is None else info.raw
