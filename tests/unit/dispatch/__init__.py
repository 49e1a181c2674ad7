"""Logic of `dispatch`."""
