"""Unit tests of `cli/view`."""
