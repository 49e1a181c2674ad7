"""Distributes the records at the client to files, groups and handlers.

May import: errors, settings, system, protocol, journal, transport, grouping, lines, output, worker.
"""

from __future__ import annotations
