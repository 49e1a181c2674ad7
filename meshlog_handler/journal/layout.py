"""Where things stand in a journal's file.

::

    header   magic, sizes, pid; counters of what was dropped, by reason and level
    segment  generation:u64 0:u64, entries (see `entries`), zeros       x 8

The generation rises from segment to segment; every segment can be read alone.
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
"""Where the entries of a segment begin."""

DROP_REASONS: Final = ("full", "policy", "gone", "lost")
"""The journal was full although the call waited; was full, and the policy is to drop; had no client; was overwritten."""


class Range(NamedTuple):
    """Bytes of the stream: where they stand, and what they are."""

    generation: int
    start: int
    data: bytes
