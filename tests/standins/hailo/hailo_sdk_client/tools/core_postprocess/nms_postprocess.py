"""What goes wrong with the configuration of a post-process."""


class NMSConfigPostprocessException(Exception):  # noqa: N818 - the real name
    """The configuration does not fit the network."""
