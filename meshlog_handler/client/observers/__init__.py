"""Other processes that look at a client: what they are answered and sent, and the `Observer` that such a process uses.

May import of the client: peers, flushes, downstream, health.
"""

from __future__ import annotations
