"""The client: the thread that reads all peers, and its flushes, commands, exit reports and relays.

May import: errors, settings, system, protocol, journal, transport, grouping, lines, output, insight, worker, dispatch.
"""

from __future__ import annotations
