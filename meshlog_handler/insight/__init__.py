"""What all ranks do, seen together: their stacks, merged. Pure: no threads, no clocks.

May import: errors, protocol.
"""

from __future__ import annotations
