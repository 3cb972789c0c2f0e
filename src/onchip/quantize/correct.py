"""Correct biases: rounding weights shifts a layer's mean output by a known amount; take it back.

Source: Nagel et al., Data-Free Quantization, 2019, section 4.2, with means from calibration.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from onchip.graph.read import Model
from onchip.quantize.stats import Stats

Floats = npt.NDArray[np.floating]


def bias_shift(weights: Floats, rounded: Floats, means: Floats) -> npt.NDArray[np.float64]:
    """Return how far rounding moves the mean of each output channel.

    Args:
        weights: `(out, in / groups, ...)`.
        rounded: the same after rounding, as floats.
        means: the mean of each input channel, `(in,)`.
    """
    error = (rounded.astype(np.float64) - weights).reshape(len(weights), weights.shape[1], -1)
    error = error.sum(axis=2)
    groups = len(means) // weights.shape[1]
    each = len(weights) // groups
    seen = np.repeat(means.reshape(groups, -1), each, axis=0)
    return np.asarray((error * seen).sum(axis=1))


def by_channel(
    model: Model, seen: Mapping[str, Stats], tensor: str, of: Callable[[Stats], Floats]
) -> Floats | None:
    """Return a statistic of each channel of a tensor, through joins and splits of what was seen.

    None where it does not follow from what was observed.
    """
    if tensor in seen:
        return of(seen[tensor])
    node = model.producers.get(tensor)
    if node is None:
        return None
    if node.op_type in ("Resize", "Identity"):
        return by_channel(model, seen, node.input[0], of)
    if node.op_type == "Concat" and node.attribute[0].i == 1:
        parts = [by_channel(model, seen, n, of) for n in node.input]
        known = [p for p in parts if p is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if node.op_type == "Split" and _axis(node) == 1:
        whole = by_channel(model, seen, node.input[0], of)
        if whole is None:
            return None
        sizes = [model.shapes[o][1] for o in node.output]
        start = sum(sizes[: list(node.output).index(tensor)])
        return whole[start : start + model.shapes[tensor][1]]
    return None


def _axis(node: object) -> int:
    attributes = node.attribute  # type: ignore[attr-defined]
    return next((int(a.i) for a in attributes if a.name == "axis"), 0)
