"""How records look and where they are written: formatters, the console, a file for each rank.

May import: errors, settings, system, protocol, lines.
"""

from __future__ import annotations
