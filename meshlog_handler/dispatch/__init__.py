"""What becomes of a record at the client: files, groups, handlers.

May import: errors, settings, protocol, system, grouping, lines, output, worker.
"""

from __future__ import annotations
