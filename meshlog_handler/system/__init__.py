"""What the operating system and the interpreter offer: descriptors, waits, forks, exits, output capture.

May import: errors, settings. Knows nothing of records or clients.
"""

from __future__ import annotations
