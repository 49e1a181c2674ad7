"""The page of a run: from events to a bounded model of them, and from this to one HTML file or to a local server.

May import of the command line: the files beside this folder, view.
"""

from __future__ import annotations
