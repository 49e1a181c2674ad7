"""Unit tests of `cli/page`."""
