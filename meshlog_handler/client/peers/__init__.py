"""The peers of a client, one for each connection: what is read of them, counted, kept of their last lines, and who they are.

May import of the client: nothing.
"""

from __future__ import annotations
