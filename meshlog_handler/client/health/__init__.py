"""The state of the ranks: what is known about each, the stacks of their threads, and whether a job hangs.

May import of the client: peers, flushes, downstream.
"""

from __future__ import annotations
