"""Unit tests of `journal`."""
