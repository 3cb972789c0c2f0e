"""What goes wrong with the optimization and its data."""


class AccelerasException(Exception):  # noqa: N818 - the real names
    """The optimization failed."""


class BadInputsShape(AccelerasException):
    """The data has not the network's shape."""

    def __init__(self, layer: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        super().__init__(
            f"Data shape {given} for layer {layer} doesn't match network's input shape {wanted}"
        )


class AccelerasValueError(AccelerasException):
    """A setting, or the data, has a value that cannot be."""
