"""Waits for answers of peers: flushes with their receipts, and the acknowledgements of any request.

May import of the client: peers.
"""

from __future__ import annotations
