"""Relays: when to start another one, and what one counts."""
