"""Draw boxes on photos in the browser: a small server for one folder, and its page."""
