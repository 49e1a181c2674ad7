"""Logic of `protocol`."""
