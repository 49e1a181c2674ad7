"""Protocols of the templates that the aggregator uses. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from logging import LogRecord
from typing import Any, Protocol


class AnyTemplate(Protocol):
    """What many records have in common. With the `values` of one record, a template makes this record."""

    @property
    def rank(self) -> int | None: ...  # None: the client's own process
    @property
    def levelno(self) -> int: ...
    @property
    def group(self) -> Hashable | None: ...  # records with arguments and equal groups are similar; None: the text decides
    @property
    def scope(self) -> Hashable: ...  # texts of different scopes are never similar
    @property
    def source(self) -> Hashable | None: ...  # the captured stream, of those of a rank; None: logging calls

    def args(self, values: Any) -> tuple[object, ...]:
        """Return the message arguments; called only if `group` is not None."""

    def text(self, values: Any) -> str:
        """Return the message."""

    def when(self, values: Any) -> float:
        """Return the time at which it was logged or captured, in seconds since the epoch."""

    def signature(self, values: Any) -> Hashable | None:
        """Return a value that distinguishes exceptions, or None. Only records with equal signatures are similar."""

    def build(self, values: Any) -> LogRecord:
        """Return the record: a new object at each call."""


class CallTemplate(AnyTemplate, Protocol):
    """What many records have in common that have no signatures and whose arguments have the same types."""

    def columns(self, lines: Sequence[Any]) -> Sequence[Sequence[object]]:
        """Return the message arguments of many records, column by column; called only if `group` is not None."""


class LineTemplate(AnyTemplate, Protocol):
    """What many lines without a group have in common; their digit masks are known."""

    def digit_mask(self, values: Any) -> bytes:
        """Return the digit mask of the message; see `similarity.mask_digits`."""


class DigestTemplate(AnyTemplate, Protocol):
    """What the digests of another aggregator have in common."""

    def weight(self, values: Any) -> tuple[int, Sequence[int], float]:
        """Return the number of lines in a digest, their ranks, and the time of the last one."""

    def samples(self, values: Any) -> Sequence[Any]:
        """Return values of single lines that make the text of the digest when merged; not more than its number of lines."""
