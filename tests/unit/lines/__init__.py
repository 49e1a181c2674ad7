"""Unit tests of `lines`."""
