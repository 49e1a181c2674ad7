"""The client: the thread that reads all peers, and its flushes, commands, exit reports and relays.

May import: errors, settings, system, protocol, journal, transport, grouping, insight, lines, output, worker, dispatch.
"""

from __future__ import annotations
