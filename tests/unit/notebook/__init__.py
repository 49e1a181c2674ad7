"""Unit tests of `notebook`."""
