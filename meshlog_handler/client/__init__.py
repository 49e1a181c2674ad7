"""The client: its thread, which reads all peers and shows what they send, and what other threads may ask of it.

The files beside the folders may import these, except `relay`, which imports them.

May import: _version, errors, settings, system, protocol, journal, transport, grouping, insight, lines, output, worker,
dispatch.
"""

from __future__ import annotations
