"""The data that processes exchange, as bytes and as values: records, messages, frames. Pure: no threads, no clocks.

May import: errors.
"""

from __future__ import annotations
