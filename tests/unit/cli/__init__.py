"""Logic of `cli`."""
