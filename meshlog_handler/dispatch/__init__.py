"""Distributes the records at the client to files, groups and handlers. Also copies of a MeshHandler, which share its handlers.

May import: errors, settings, system, protocol, journal, transport, grouping, lines, output, worker.
"""

from __future__ import annotations
