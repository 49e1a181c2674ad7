"""Turns the output of a process into lines: framing, terminal control sequences, progress bars. Pure.

May import: protocol, grouping.
"""

from __future__ import annotations
