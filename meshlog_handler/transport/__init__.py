"""How a worker and a client connect: addresses, keys, sockets, the private directory.

May import: errors, settings, protocol, system, journal.
"""

from __future__ import annotations
