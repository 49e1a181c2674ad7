"""Unit tests of the client's `flushes`."""
