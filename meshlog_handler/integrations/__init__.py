"""Engines that run many Python processes already; a file each."""

from __future__ import annotations
