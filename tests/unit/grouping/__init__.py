"""Logic of `grouping`."""
