"""Unit tests of the client's `reports`."""
