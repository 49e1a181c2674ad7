"""Layout of a journal file.

::

    header   magic, sizes, pid; counters of dropped records, by reason and level
    segment  generation:u64 0:u64, entries (see `entries`), zeros       x 8

Each new segment has a higher generation. Every segment can be read independently.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

SEGMENTS: Final = 8
MAGIC: Final = b"MESHLOG1"
HEADER: Final = Struct("<8sIIQ")
COUNTERS_AT: Final = 1024
COUNTER: Final = Struct("<HHIQ")
MAX_COUNTERS: Final = 128
GENERATION: Final = Struct("<QQ")
START: Final = GENERATION.size
"""Offset of the first entry in a segment."""

DROP_REASONS: Final = ("full", "policy", "gone")
"""The journal was full after a wait; was full, with the policy to drop; was full, without a client that makes room."""


class Range(NamedTuple):
    """A byte range of the stream: its position and its data."""

    generation: int
    start: int
    data: bytes
