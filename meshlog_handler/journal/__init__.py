"""The journal of a worker and its side files. They hold records until the client has received them, and outlive the worker.

May import: errors, settings, system, protocol.
"""

from __future__ import annotations
