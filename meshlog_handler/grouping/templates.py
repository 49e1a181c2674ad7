"""What the aggregator asks of what many records have in common: protocols. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from logging import LogRecord
from typing import Any, Protocol


class AnyTemplate(Protocol):
    """What many records have in common; with the `values` of one of them it makes that record.

    Attributes
    ----------
    rank : int or None
        Where its records come from; None for the client's own process.
    levelno : int
    group : Hashable or None
        Records with message arguments: those with equal groups are similar. None: the text decides.
    scope : Hashable
        Texts of different scopes are never similar.
    """

    @property
    def rank(self) -> int | None: ...
    @property
    def levelno(self) -> int: ...
    @property
    def group(self) -> Hashable | None: ...
    @property
    def scope(self) -> Hashable: ...

    def args(self, values: Any) -> tuple[object, ...]:
        """Return the message arguments; called only where `group` is not None."""

    def text(self, values: Any) -> str:
        """Return the message."""

    def signature(self, values: Any) -> Hashable | None:
        """Return what tells exceptions apart, or None; only records with equal signatures are similar."""

    def build(self, values: Any) -> LogRecord:
        """Return the record, new at each call."""


class CallTemplate(AnyTemplate, Protocol):
    """What many records without signatures have in common, whose arguments are of the same types."""

    def columns(self, lines: Sequence[Any]) -> Sequence[Sequence[object]]:
        """Return the message arguments of many, column by column; called only where `group` is not None."""


class LineTemplate(AnyTemplate, Protocol):
    """What many lines without a group have in common; their skeletons are known."""

    def mask_digits(self, values: Any) -> bytes:
        """Return the skeleton of the message; see `similar.skeleton`."""


class DigestTemplate(AnyTemplate, Protocol):
    """What the digests of another aggregator have in common."""

    def weight(self, values: Any) -> tuple[int, Sequence[int]]:
        """Return how many lines one tells of, and of which ranks."""

    def samples(self, values: Any) -> Sequence[Any]:
        """Return values of single lines that, merged, say what it says; no more than it has lines."""
