"""Logic of `client`."""
