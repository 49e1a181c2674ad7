"""A Django application."""

from __future__ import annotations
