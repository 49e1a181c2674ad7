"""Unit tests of `dispatch`."""
