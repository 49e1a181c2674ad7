"""Unit tests of `cli/launch`."""
