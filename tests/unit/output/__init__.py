"""Unit tests of `output`."""
