"""Unit tests of `mesh`."""
