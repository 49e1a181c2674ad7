"""Makes lines out of what a process prints: framing, terminal control sequences, progress bars. Pure.

May import: protocol, grouping.
"""

from __future__ import annotations
