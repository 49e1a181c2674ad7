"""Unit tests of `transport`."""
