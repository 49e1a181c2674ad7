"""Connections between workers and clients: addresses, keys, sockets, the run directory.

May import: errors, settings, system, protocol, journal.
"""

from __future__ import annotations
