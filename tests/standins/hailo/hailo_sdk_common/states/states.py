"""How far a network is."""

from enum import Enum


class States(Enum):
    """The states of a runner and of a HAR, as `metadata.json` writes them."""

    UNINITIALIZED = "uninitialized"
    ORIGINAL_MODEL = "original_model"
    HAILO_MODEL = "hailo_model"
    FP_OPTIMIZED_MODEL = "fp_optimized_model"
    QUANTIZED_MODEL = "quantized_model"
    COMPILED_MODEL = "compiled_model"


class InvalidStateException(Exception):  # noqa: N818 - the real name
    """A step was asked for before the one that it needs."""
