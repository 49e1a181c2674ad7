"""Unit tests of the client's `peers`."""
