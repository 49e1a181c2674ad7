"""Compares what the ranks do: progress, silence, milestones, differences, failures, merged stacks. Pure.

May import: errors, protocol, grouping.
"""

from __future__ import annotations
