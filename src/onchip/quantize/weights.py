"""Weights to integer codes, per output channel, symmetric.

On x86 without VNNI the integer kernels multiply unsigned activations with signed weights and add
two neighbouring products in 16 bits that saturate (vpmaddubsw). A spec with `pair_limit` 32767
chooses scales so that no such sum passes it, given how large each input channel's codes get: the
fast kernels are then right on every CPU. It is dearer than plain rounding only in channels where
two large weights stand together on two channels that are large as well.
Neighbours are counted in the order in which the kernels read them: row, column, input channel.
"""

import numpy as np
import numpy.typing as npt

from onchip.spec import QuantSpec

Floats = npt.NDArray[np.float32]

BIAS_LIMIT = (1 << 31) - 1
FINEST = 1e-10  # scale of weights


def rows(weights: Floats) -> Floats:
    """Return weights `(out, in, ...)` as `(out, k)` in the order in which kernels read them."""
    return np.moveaxis(weights, 1, -1).reshape(len(weights), -1)


def scales(weights: Floats, quant: QuantSpec, largest: Floats | None = None) -> Floats:
    """Return one scale per output channel of `weights (out, in, ...)`, or one for all.

    Args:
        weights: the float weights.
        quant: the chip's arithmetic.
        largest: the largest code that each input channel reaches, `(in,)`; all of them where None.
    """
    flat = rows(weights).astype(np.float64)  # in which the largest float32 do not overflow
    needed = np.maximum(flat.max(axis=1) / quant.weight_max, flat.min(axis=1) / quant.weight_min)
    if quant.pair_limit and weights.shape[1] > 1:
        if largest is None or len(largest) != weights.shape[1]:
            largest = np.full(weights.shape[1], quant.qmax, np.float32)
        codes = np.tile(largest, flat.shape[1] // weights.shape[1])
        needed = np.maximum(needed, _pairs(flat, codes, quant.pair_limit))
    needed = np.maximum(needed, FINEST).astype(np.float32)
    return needed if quant.per_channel else np.full_like(needed, needed.max())


def with_room(
    scales: npt.NDArray[np.floating], bias: npt.NDArray[np.floating], step: float, quant: QuantSpec
) -> Floats:
    """Return weight scales that are no finer than lets the bias fit 32 bits.

    Kernels take a bias's scale to be the input's step times the weight's, whatever the graph says
    it is: a channel of faint weights, as a batch norm leaves where it has shut one, would lose its
    bias.

    Args:
        scales: of the weights, `(out,)`.
        bias: `(out,)`.
        step: the scale of the layer's input.
        quant: the chip's arithmetic.
    """
    needed = np.maximum(scales, np.abs(bias) / (step * BIAS_LIMIT / 2))
    needed = needed if quant.per_channel else np.full_like(needed, needed.max())
    return np.asarray(needed, np.float32)


def _pairs(flat: npt.NDArray[np.floating], largest: Floats, limit: int) -> npt.NDArray[np.floating]:
    """Return the scale per row at which the worst sum of two products of one sign is `limit`.

    `largest` are the activations' largest codes, one per column. Half a code of rounding per
    weight is allowed for.
    """
    if flat.shape[1] % 2:
        flat, largest = np.pad(flat, ((0, 0), (0, 1))), np.pad(largest, (0, 1))
    pairs, codes = flat.reshape(len(flat), -1, 2), largest.reshape(-1, 2)
    room = limit - codes.sum(axis=1) / 2
    positive = (np.maximum(pairs, 0) * codes).sum(axis=2) / room
    negative = (np.maximum(-pairs, 0) * codes).sum(axis=2) / room
    return np.asarray(np.maximum(positive, negative).max(axis=1))


def codes(weights: Floats, scale: Floats, quant: QuantSpec) -> npt.NDArray[np.int8]:
    """Round `weights (out, in, ...)` to codes with one scale per output channel."""
    shape = (-1,) + (1,) * (weights.ndim - 1)
    found = np.rint(weights / scale.reshape(shape))
    return np.clip(found, quant.weight_min, quant.weight_max).astype(np.int8)


def coded_bias(
    bias: npt.NDArray[np.floating], step: float, scales: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return a bias as codes and their scales: the input's step times the weight's.

    Inputs of 16 bits can have steps so fine that a bias would overflow: it gets a coarser one.
    """
    needed = np.abs(bias) / (BIAS_LIMIT / 2)
    found = np.maximum(np.float32(step) * scales, needed).astype(np.float32)
    return np.clip(np.rint(bias / found), -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32), found
