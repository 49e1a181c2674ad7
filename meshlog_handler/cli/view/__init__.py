"""Commands that look at a run in another terminal: as its observers, or at the journals that it has left.

May import of the command line: the files beside this folder.
"""

from __future__ import annotations
