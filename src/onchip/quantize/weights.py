"""Weights to integer codes, per output channel, symmetric.

On x86 without VNNI the integer kernels multiply unsigned activations with signed weights and add
two neighbouring products in 16 bits that saturate (vpmaddubsw). With activations up to 255 the
sum stays inside only where two neighbouring codes of one sign add up to at most 128. A spec with
`pair_limit` 128 chooses scales so that they do: exact on every CPU, at the speed of the fast
kernel, and dearer than plain rounding only in channels where two large weights stand together.
Neighbours are counted in the order in which the kernels read them: row, column, input channel.
"""

import numpy as np
import numpy.typing as npt

from onchip.spec import QuantSpec

Floats = npt.NDArray[np.float32]


def rows(weights: Floats) -> Floats:
    """Return weights `(out, in, ...)` as `(out, k)` in the order in which kernels read them."""
    return np.moveaxis(weights, 1, -1).reshape(len(weights), -1)


def scales(weights: Floats, quant: QuantSpec) -> Floats:
    """Return one scale per output channel of `weights (out, in, ...)`, or one for all."""
    flat = rows(weights)
    needed = np.abs(flat).max(axis=1) / quant.weight_max
    if quant.pair_limit and weights.shape[1] > 1:
        needed = np.maximum(needed, _pairs(flat) / (quant.pair_limit - 1))
    needed = np.maximum(needed, 1e-10).astype(np.float32)
    return needed if quant.per_channel else np.full_like(needed, needed.max())


def _pairs(flat: Floats) -> Floats:
    """Return the largest sum of two neighbours of one sign, per row."""
    if flat.shape[1] % 2:
        flat = np.pad(flat, ((0, 0), (0, 1)))
    pairs = flat.reshape(len(flat), -1, 2)
    positive = np.maximum(pairs, 0).sum(axis=2).max(axis=1)
    negative = np.maximum(-pairs, 0).sum(axis=2).max(axis=1)
    return np.asarray(np.maximum(positive, negative))


def codes(weights: Floats, scale: Floats, quant: QuantSpec) -> npt.NDArray[np.int8]:
    """Round `weights (out, in, ...)` to codes with one scale per output channel."""
    shape = (-1,) + (1,) * (weights.ndim - 1)
    found = np.rint(weights / scale.reshape(shape))
    return np.clip(found, -quant.weight_max, quant.weight_max).astype(np.int8)
