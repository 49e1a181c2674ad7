"""Meshes of processes on this host: start, call and supervise the processes, and manage their logging.

May import: errors, settings, system, protocol, journal, transport, grouping, insight, lines, output, worker, dispatch, client,
handler, installation, notebook.
"""

from __future__ import annotations
