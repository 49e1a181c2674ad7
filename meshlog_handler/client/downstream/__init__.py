"""Relays as their client sees them, and their workers: how far each stream has come, also if a relay is killed.

May import of the client: peers, flushes.
"""

from __future__ import annotations
