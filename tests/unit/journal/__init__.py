"""Logic of `journal`."""
