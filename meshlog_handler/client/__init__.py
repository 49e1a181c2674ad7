"""The client: its thread, which reads all peers and shows what they send, and what other threads may ask of it.

`log_client`, `requests`, `loop` and `switches` may import the folders here, except `relay`, which imports them.

May import: _version, errors, settings, system, protocol, journal, transport, grouping, insight, lines, output, worker,
dispatch.
"""

from __future__ import annotations
