"""Logic of `mesh`."""
