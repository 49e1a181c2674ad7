"""Logic alone: no processes, milliseconds."""
