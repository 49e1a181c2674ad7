"""Meshes of processes on this host: start, call and supervise the processes, and manage their logging.

May import: everything except the command line and the integrations.
"""

from __future__ import annotations
