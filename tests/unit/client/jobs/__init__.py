"""Unit tests of the client's `jobs`."""
