"""Unit tests of the client's `queues`."""
