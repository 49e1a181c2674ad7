"""Real programs, each run twice: with its own logging, and with its handlers swapped for ours.

The two must show the same: at least what the program showed before, once, at the same level, with the same text.
The programs are in ``apps``, as their authors would write them.
"""

from __future__ import annotations
