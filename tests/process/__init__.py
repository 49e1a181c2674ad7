"""With real processes."""
