"""Connections of other terminals to a client: their questions, the records that they follow, and their end, `Observer`.

May import of the client: peers, flushes, downstream, health.
"""

from __future__ import annotations
