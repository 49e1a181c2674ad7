"""Unit tests of `grouping`."""
