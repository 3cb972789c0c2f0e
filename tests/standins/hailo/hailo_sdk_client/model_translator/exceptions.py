"""What the parser refuses."""

from hailo_sdk_common.hailo_nn.exceptions import UnsupportedModelError as UnsupportedModelError


class ModelTranslatorException(Exception):  # noqa: N818 - the real names
    """The network cannot be translated."""


class ParsingWithRecommendationException(ModelTranslatorException):
    """It cannot, but a part of it can: the message names the end nodes."""


class MisspellNodeError(ModelTranslatorException):
    """There is no node of that name."""


class UnsupportedOperationError(ModelTranslatorException):
    """An operation that the compiler does not know."""


class UnsupportedShuffleLayerError(ModelTranslatorException):
    """A reshape or transpose that is none of those which it knows."""
