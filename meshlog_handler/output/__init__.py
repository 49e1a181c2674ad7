"""How shown records look, and where they go: formatters, the console, a file for each rank.

May import: errors, settings, protocol, system, lines.
"""

from __future__ import annotations
