"""Unit tests of the client's `downstream`."""
