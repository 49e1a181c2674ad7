"""Merges similar lines of many ranks into one. Pure: no threads, no clocks.

May import: protocol.
"""

from __future__ import annotations
