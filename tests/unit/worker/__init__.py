"""Logic of `worker`."""
