"""Era: settings of the client that held before a switch, kept until every proc has passed it."""

from __future__ import annotations

from collections.abc import Hashable

from ..grouping.aggregator import Aggregator
from .sink import Sink


class Era:
    """Settings that held before a switch, and what is pending by them: for what procs logged before it.

    Attributes
    ----------
    users : set
        Sources: procs that may still bring such records.
    """

    def __init__(self, default: Sink | None, aggregators: dict[Sink, Aggregator]) -> None:
        self.default = default
        self.aggregators = aggregators
        self.users: set[Hashable] = set()
