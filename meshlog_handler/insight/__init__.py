"""What the stream of records and lines tells about the ranks: progress, silence, milestones, differences, failures. Pure.

May import: errors, protocol, grouping.
"""

from __future__ import annotations
