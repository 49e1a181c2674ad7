"""Where a worker keeps its records until the client has them: memory that outlives the worker, and side files.

May import: errors, settings, protocol, system.
"""

from __future__ import annotations
