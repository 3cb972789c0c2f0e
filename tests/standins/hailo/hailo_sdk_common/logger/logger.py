"""The compiler's logger."""

import logging


def default_logger() -> logging.Logger:
    """Return the logger through which callers may speak as the compiler does."""
    return logging.getLogger("hailo_sdk")
