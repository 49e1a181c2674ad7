"""Unit tests of the client's `health`."""
