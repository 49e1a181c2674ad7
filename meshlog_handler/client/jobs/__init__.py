"""The client of a job: what earlier clients have left to it, and what it leaves to the next.

May import of the client: peers.
"""

from __future__ import annotations
