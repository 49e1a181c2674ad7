"""Logic of `output`."""
