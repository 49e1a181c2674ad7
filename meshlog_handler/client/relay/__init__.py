"""A relay: a client with its own upstream client, and the tunnels to hosts that cannot reach that one.

May import of the client: the files beside this folder, peers, flushes, queues, jobs, downstream, health, reports, observers.
"""

from __future__ import annotations
