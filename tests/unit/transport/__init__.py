"""Logic of `transport`."""
