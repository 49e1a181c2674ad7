"""Unit tests of the client's `observers`."""
