"""Processes of our own, addressed as one: start, call, supervise, and their logging.

May import: everything but the command line and the integrations.
"""

from __future__ import annotations
