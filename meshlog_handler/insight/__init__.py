"""What the ranks do, seen together: progress, silence, milestones, differences, failures, merged stacks. Pure.

May import: errors, protocol, grouping.
"""

from __future__ import annotations
