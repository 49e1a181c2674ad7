"""Logic of `notebook`."""
