"""What goes wrong with a network's own graph."""


class HailoNNException(Exception):  # noqa: N818 - the real names
    """The graph is not as it was asked to be."""


class UnsupportedModelError(HailoNNException):
    """The network cannot be."""
