"""Many cameras, one chip: track, record events, tell others, show a page."""
