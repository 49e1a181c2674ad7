"""Engines that bring their own processes: each module attaches the logging of one. Import the one you use."""

from __future__ import annotations
