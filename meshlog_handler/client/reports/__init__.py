"""What a client itself logs about workers: how they ended, and which records were dropped.

May import of the client: peers, health.
"""

from __future__ import annotations
