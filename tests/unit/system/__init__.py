"""Unit tests of `system`."""
