"""Logic of `lines`."""
