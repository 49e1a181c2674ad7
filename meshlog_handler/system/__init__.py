"""Services of the operating system and the interpreter: descriptors, waits, forks, exits, output capture.

May import: errors, settings. Does not depend on records or clients.
"""

from __future__ import annotations
