"""Logic of `system`."""
