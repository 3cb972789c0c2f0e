"""The activations that follow a layer, as functions of numpy arrays."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx

Values = npt.NDArray[np.floating]


def _sigmoid(x: Values) -> Values:
    return 0.5 * (1 + np.tanh(0.5 * x))


_FUNCTIONS: dict[str, Callable[[Values], Values]] = {
    "": lambda x: x,
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "tanh": np.tanh,
}


def name(node: onnx.NodeProto) -> str:
    """Return the name under which `function` knows an activation node, or "" if it does not."""
    if node.op_type == "LeakyRelu":
        slope = next((a.f for a in node.attribute if a.name == "alpha"), 0.01)
        return f"leakyrelu:{slope:g}"
    lower = node.op_type.lower()
    return lower if lower in _FUNCTIONS else ""


def function(activation: str) -> Callable[[Values], Values]:
    """Return the function of an activation's name.

    >>> function("leakyrelu:0.1")(np.array([-1.0, 2.0])).tolist()
    [-0.1, 2.0]
    """
    if activation.startswith("leakyrelu:"):
        slope = float(activation.partition(":")[2])
        return lambda x: np.where(x < 0, x * slope, x)
    return _FUNCTIONS[activation]
