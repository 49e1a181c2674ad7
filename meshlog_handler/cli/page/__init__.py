"""The page of a run: from events to a bounded model of them, and from this to one HTML file or to a local server."""
