"""Commands that start others: run, exec, serve, on and relay, with the launcher of ranks and its summary.

May import of the command line: the files beside this folder.
"""

from __future__ import annotations
