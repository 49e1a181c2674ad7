"""Era: the client's settings before a switch, kept until every worker has passed the switch."""

from __future__ import annotations

from collections.abc import Hashable

from ..grouping.aggregator import Aggregator
from .sink import Sink


class Era:
    """The settings before a switch, and the pending groups of records that workers logged before it."""

    def __init__(self, default: Sink | None, aggregators: dict[Sink, Aggregator]) -> None:
        self.default = default
        self.aggregators = aggregators
        self.users: set[Hashable] = set()  # peers that may still send such records
