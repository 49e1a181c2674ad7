"""Connections of other terminals to a client: their questions, and the records that they follow.

May import of the client: peers, flushes, downstream, health.
"""

from __future__ import annotations
