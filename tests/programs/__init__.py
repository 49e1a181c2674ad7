"""Real programs, each run twice: with its own logging, and with its handlers replaced by ours.

Both runs must show the same. Everything the program showed before must appear once, at the same level, with the same text.
The programs are in ``apps``, written as their authors would write them.
"""

from __future__ import annotations
