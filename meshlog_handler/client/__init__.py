"""The side that shows: the thread that reads all peers, their lives, flushes and commands, and relays.

May import: system, protocol, journal, transport, grouping, lines, output, worker, dispatch.
"""

from __future__ import annotations
