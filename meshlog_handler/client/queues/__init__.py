"""Ordinary queues of the program: the threads that read them, and their records as those of a peer.

May import of the client: peers.
"""

from __future__ import annotations
