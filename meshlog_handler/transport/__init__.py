"""Connections between workers and clients: addresses, keys, sockets, the run directory.

May import: errors, settings, protocol, system, journal.
"""

from __future__ import annotations
