"""Choose the integer weights of one layer by what the layer makes, given what it really reads.

Everything is worked out from moments, so that samples are seen once and never kept. A patch of the
rounded input with a one behind it is `u`; what the float network makes at the place, less what the
layer with its float weights makes of the rounded patch, is `r`: the error that came from above.
Weights moved by `d` (the bias is the last) leave the mean squared error

    E (r - d u)^2 = E r^2 - 2 d E[u r] + d E[u u^T] d^T

A ridge is added to it, for samples are few and tell little about most directions. First the weights
move to where the sum is least; then they are rounded one by one, dearest first, and those that are
not rounded yet take up the error.

Sources: Frantar, Alistarh, Optimal Brain Compression, 2022, and GPTQ, 2023; that GPTQ is Babai's
nearest plane algorithm (Chen et al., 2025), which needs no inverse; Li et al., GPTAQ, 2025, for the
error from above.

Arrays are by group of the convolution: weights `(groups, k, out)`, where `k` counts a patch's
values in the order in which kernels read them (row, column, input channel).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onchip.errors import InputError
from onchip.quantize import weights as rounding
from onchip.spec import QuantSpec

Floats = npt.NDArray[np.floating]

BLOCK = 64  # columns that are rounded before the rest takes up their error
FINEST = 0.68  # of the scale that clips no weight: the finest that is tried
SCALES = 9  # how many are tried
RIDGE = 10.0  # in mean squares of an input; measured: 2 overfits, 30 does as well
LARGEST = 1e30  # sums and changes of weights beyond this are no results
DAMPING = 0.1  # the same where weights take up each other's rounding, of which samples tell more


@dataclass(frozen=True)
class Moments:
    """What was seen of a layer: weighted means over places and images.

    The last row and column are the constant one.
    """

    inputs: Floats  # (groups, k + 1, k + 1): of u u^T
    missed: Floats  # (groups, k + 1, out): of u r^T
    power: Floats  # (groups, out): of r^2


@dataclass(frozen=True)
class Solved:
    """A layer's new weights, and its mean squared error per output channel."""

    codes: npt.NDArray[np.int8]  # (out, in / groups, rows, columns)
    scales: npt.NDArray[np.float32]  # (out,)
    bias: Floats  # (out,)
    error: Floats  # (out,)


class Tally:
    """Sums up moments, some samples at a time.

    Sums that overflow are found at the end.
    """

    def __init__(self, groups: int, k: int, out: int) -> None:
        self.inputs = np.zeros((groups, k + 1, k + 1), np.float32)
        self.missed = np.zeros((groups, k + 1, out), np.float32)
        self.power = np.zeros((groups, out), np.float32)
        self.weight = 0.0

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, patches: Floats, missed: Floats, weights: Floats) -> None:
        """Take in samples: patches `(groups, n, k)`, r `(groups, n, out)`, their weights `(n,)`."""
        if not np.isfinite(missed).all():
            raise InputError(
                "an activation is not a number (NaN or infinite)",
                "the network or a calibration image is damaged: run it in float first",
            )
        roots = np.sqrt(weights).astype(np.float32)[:, None]
        ones = np.broadcast_to(roots, (*patches.shape[:2], 1))
        u = np.concatenate([patches * roots, ones], axis=2)
        r = missed * roots
        for group in range(len(u)) if len(u) < 4 else ():  # one at a time numpy takes syrk
            self.inputs[group] += u[group].T @ u[group]
        if len(u) >= 4:
            self.inputs += u.transpose(0, 2, 1) @ u
        self.missed += u.transpose(0, 2, 1) @ r
        self.power += (r * r).sum(axis=1)
        self.weight += float(weights.sum())

    def merge(self, other: "Tally") -> None:
        """Take in what another took in."""
        self.inputs += other.inputs
        self.missed += other.missed
        self.power += other.power
        self.weight += other.weight

    def moments(self) -> Moments:
        """The means of what was taken in; nothing where float32 was too small for their sums."""
        sums = (self.inputs, self.missed, self.power)
        if not all(np.abs(s).max(initial=0) < LARGEST for s in sums):
            return Moments(*(np.zeros_like(s) for s in sums))
        weight = np.float32(self.weight or 1.0)
        return Moments(*(s / weight for s in sums))


def columns(weights: Floats, groups: int) -> npt.NDArray[np.float32]:
    """Return weights `(out, in / groups, ...)` as `(groups, k, out / groups)`."""
    flat = rounding.rows(np.asarray(weights, np.float32))
    return np.ascontiguousarray(flat.reshape(groups, -1, flat.shape[1]).transpose(0, 2, 1))


def uncolumned(found: Floats, shape: tuple[int, ...]) -> Floats:
    """Return `(groups, k, out / groups)` as weights of `shape`."""
    flat = found.transpose(0, 2, 1).reshape(shape[0], *shape[2:], shape[1])
    return np.moveaxis(flat, -1, 1)


@dataclass(frozen=True)
class Limits:
    """Which codes a weight can have.

    `largest (groups, k)` are the largest codes of the inputs, where the sum of two neighbouring
    products of one sign must not pass `pair` (see weights.py); 0 is no such bound.
    """

    low: int
    high: int
    pair: int
    largest: Floats

    @classmethod
    def of(
        cls, quant: QuantSpec, shape: tuple[int, ...], groups: int, largest: Floats | None = None
    ) -> "Limits":
        """The limits of a layer whose weights are `(out, in / groups, rows, columns)`."""
        inside = shape[1]
        if largest is None or largest.size != groups * inside:
            largest = np.full(groups * inside, quant.qmax - quant.qmin, np.float32)
        each = np.maximum(np.tile(largest.reshape(groups, inside), int(np.prod(shape[2:]))), 1)
        pair = quant.pair_limit if inside > 1 else 0
        return cls(quant.weight_min, quant.weight_max, pair, each)

    def clip(self, codes: Floats) -> Floats:
        """Return codes inside the limits of each by itself."""
        return np.clip(codes, self.low, self.high)

    def beside(self, codes: Floats, others: Floats, largest: Floats, beside: Floats) -> Floats:
        """Return codes that stay in the pair's bound.

        Args:
            codes: what is wished.
            others: the neighbours' codes, which stand already.
            largest: the largest code of the inputs.
            beside: the same of the neighbours' inputs.
        """
        above = np.floor((self.pair - np.maximum(others, 0) * beside) / largest)
        below = np.floor((self.pair + np.minimum(others, 0) * beside) / largest)
        return np.clip(codes, -below, above)

    def kept(self, codes: Floats) -> npt.NDArray[np.bool_]:
        """Whether the codes `(groups, k, out)` of each output channel are inside all limits."""
        inside = ((codes >= self.low) & (codes <= self.high)).all(axis=1)
        if not self.pair:
            return np.asarray(inside)
        pairs, largest = _paired(codes), _paired(self.largest[..., None])
        worst = np.maximum(
            (np.maximum(pairs, 0) * largest).sum(axis=2),
            (np.maximum(-pairs, 0) * largest).sum(axis=2),
        ).max(axis=1)
        return np.asarray(inside & (worst <= self.pair))


def _paired(values: Floats) -> Floats:
    """Return `(groups, k, out)` as `(groups, k / 2, 2, out)`; an odd last one stands by a zero."""
    if values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1), (0, 0)))
    return values.reshape(len(values), -1, 2, values.shape[2])


@np.errstate(over="ignore", invalid="ignore")  # see _sound
def solve(
    weights: Floats,
    bias: Floats,
    seen: Moments,
    quant: QuantSpec,
    *,
    largest: Floats | None = None,
    step: float = 0.0,
    ridge: float = RIDGE,
    damping: float = DAMPING,
    moves: bool = True,
    compensates: bool = True,
    searches: bool = True,
) -> Solved:
    """Return the layer's weights in codes, and the bias that goes with them.

    Args:
        weights: `(out, in / groups, rows, columns)`, in float.
        bias: `(out,)`.
        seen: the moments of its input and of the error from above.
        quant: the chip's arithmetic.
        largest: the largest code that each input channel reaches, `(in,)`, for `pair_limit`.
        step: the scale of its input: the bias must fit 32 bits in that times a weight's; 0 is no
            such bound.
        ridge: how strongly weights are held where they are, against the error from above.
        damping: how strongly, against the error of rounding.
        moves: whether weights make up for the error from above.
        compensates: whether weights take up each other's rounding; else only the bias does.
        searches: whether scales are searched; else they are the finest that clip nothing.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise InputError("a weight is NaN or infinite", "export the model again")
    groups = len(seen.inputs)
    limits = Limits.of(quant, weights.shape, groups, largest)
    held = columns(weights, groups)
    scaled, one = _balanced(seen)
    target = np.concatenate([held, np.zeros_like(held[:, :1])], axis=1)
    with ThreadPoolExecutor(1) as beside:  # it takes longest, and waits for nothing
        factor = beside.submit(Factor.of, scaled.inputs, damping) if compensates else None
        if moves:
            target = target + _sound(Factor.of(scaled.inputs, ridge).solved(scaled.missed))
        scales = chosen_scales(target[:, :-1], scaled, quant, limits, searches)
        if step:
            room = rounding.with_room(scales.ravel(), np.asarray(bias), step, quant)
            scales = room.reshape(scales.shape)
    codes, last = rounded(
        target, scales, scaled.inputs, limits, factor.result() if factor else None
    )
    last = _sound(last)
    delta = np.concatenate([codes * scales[:, None] - held, last[:, None]], axis=1)
    return Solved(
        uncolumned(codes, weights.shape).astype(np.int8),
        scales.reshape(-1).astype(np.float32),
        np.asarray(bias, np.float64) + (last * one[:, None]).reshape(-1),
        error(scaled, delta).reshape(-1),
    )


def _sound(found: Floats) -> Floats:
    """Return changes, or none at all where float32 was too small to work them out."""
    return found if np.abs(found).max(initial=0) < LARGEST else np.zeros_like(found)


def error(seen: Moments, delta: Floats) -> Floats:
    """Return the mean squared error `(groups, out)` of weights moved by `(groups, k + 1, out)`."""
    change = (delta * (seen.inputs @ delta - 2 * seen.missed)).sum(axis=1)
    return np.asarray(np.maximum(seen.power + change, 0.0))


@dataclass(frozen=True)
class Factor:
    """The Cholesky factor of second moments with a ridge, in the order of rounding.

    The bias comes first and is rounded last; then come inputs, smaller before larger.
    """

    order: npt.NDArray[np.int64]  # (groups, k + 1)
    lower: npt.NDArray[np.float32]  # (groups, k + 1, k + 1)

    @classmethod
    def of(cls, inputs: Floats, ridge: float) -> "Factor":
        """Factor the moments; `ridge` is in mean squares of an input."""
        groups, k = len(inputs), inputs.shape[1] - 1
        ascending = np.argsort(np.einsum("gkk->gk", inputs)[:, :-1], axis=1, kind="stable")
        order = np.concatenate([np.full((groups, 1), k), ascending], axis=1)
        each = np.arange(groups)[:, None, None]
        ordered = _damped(inputs[each, order[:, :, None], order[:, None, :]], ridge)
        return cls(order, _cholesky(ordered))

    def solved(self, right: Floats) -> Floats:
        """Solve for `right (groups, k + 1, out)`: by how much to move the weights.

        Moving is dear by the ridge: where samples tell little, the weights stay.
        """
        found = np.take_along_axis(right, self.order[:, :, None], axis=1)
        lower, width = self.lower, found.shape[1]
        starts = range(0, width, BLOCK)
        inverses = [np.linalg.inv(lower[:, b : b + BLOCK, b : b + BLOCK]) for b in starts]
        for b, inverse in zip(starts, inverses, strict=True):
            found[:, b : b + BLOCK] -= lower[:, b : b + BLOCK, :b] @ found[:, :b]
            found[:, b : b + BLOCK] = inverse @ found[:, b : b + BLOCK]
        for b, inverse in zip(reversed(starts), reversed(inverses), strict=True):
            stop = min(b + BLOCK, width)
            found[:, b:stop] -= lower[:, stop:, b:stop].transpose(0, 2, 1) @ found[:, stop:]
            found[:, b:stop] = inverse.transpose(0, 2, 1) @ found[:, b:stop]
        moved = np.empty_like(found)
        np.put_along_axis(moved, self.order[:, :, None], found, axis=1)
        return moved


def _balanced(seen: Moments) -> tuple[Moments, Floats]:
    """Return the moments with a constant as large as an input is, and that constant, `(groups,)`.

    A ridge then holds the bias as it holds a weight. Left free it would follow the background,
    which is most of what is seen.
    """
    one = np.sqrt(_level(seen.inputs[:, :-1, :-1]))
    inputs, missed = seen.inputs.copy(), seen.missed.copy()
    inputs[:, -1] *= one[:, None]
    inputs[:, :, -1] *= one[:, None]
    missed[:, -1] *= one[:, None]
    return Moments(inputs, missed, seen.power), one


def _level(inputs: Floats) -> Floats:
    """Return the mean square of an input, `(groups,)`; 1 where all are zero."""
    level = np.einsum("gkk->g", inputs) / inputs.shape[1]
    return np.where(level > 1e-20, level, 1.0)


def _damped(inputs: Floats, part: float) -> Floats:
    """Return second moments with a part of the mean square on the diagonal."""
    damped, each = inputs.copy(), np.arange(inputs.shape[1])
    damped[:, each, each] += part * _level(inputs)[:, None]
    return damped


def chosen_scales(
    target: Floats, seen: Moments, quant: QuantSpec, limits: Limits, searches: bool = True
) -> npt.NDArray[np.float32]:
    """Return the scale of each output channel, `(groups, out)`, or one for all.

    The finest scale that clips nothing is not always the best: one large weight, or a pair of
    them, makes all others coarse. What is compared is the error of nearest rounding, weighed by
    how large each input is.
    """
    ends = np.maximum(target.max(axis=1) / limits.high, target.min(axis=1) / limits.low)
    whole = np.maximum(ends, rounding.FINEST)
    needed = np.maximum(whole, _pair_scales(target.astype(np.float64), limits))
    if not quant.per_channel:
        whole, needed = (np.full_like(found, found.max()) for found in (whole, needed))
    if not searches:
        return needed.astype(np.float32)
    importance = np.einsum("gkk->gk", seen.inputs)[:, :-1].astype(np.float32)
    values = target.astype(np.float32)
    tried = np.geomspace(needed, FINEST * whole, SCALES).astype(np.float32)
    losses = np.stack([_loss(values, scales, importance, limits) for scales in tried])
    if not quant.per_channel:
        losses = np.broadcast_to(losses.sum(axis=(1, 2), keepdims=True), losses.shape)
    return np.take_along_axis(tried, losses.argmin(axis=0)[None], axis=0)[0]


def _loss(values: Floats, scales: Floats, importance: Floats, limits: Limits) -> Floats:
    """Return what nearest rounding with some scales costs each output channel."""
    off = nearest(values / scales[:, None], importance, limits) * scales[:, None] - values
    return np.einsum("gk,gko->go", importance, off * off)


def _pair_scales(target: Floats, limits: Limits) -> Floats:
    """Return the scales at which no pair passes its bound, rounding to the nearest allowed for."""
    if not limits.pair:
        return np.zeros_like(target[:, 0])
    pairs, largest = _paired(target), _paired(limits.largest[..., None])
    room = limits.pair - largest.sum(axis=2) / 2
    positive = (np.maximum(pairs, 0) * largest).sum(axis=2) / room
    negative = (np.maximum(-pairs, 0) * largest).sum(axis=2) / room
    return np.asarray(np.maximum(positive, negative).max(axis=1))


def nearest(values: Floats, importance: Floats, limits: Limits) -> Floats:
    """Round `(groups, k, out)` in units of the scale; of a pair the less important gives way."""
    codes = limits.clip(np.rint(values))
    if not limits.pair:
        return codes
    pairs, largest = _paired(codes), _paired(limits.largest[..., None])
    largest = np.maximum(largest, 1)
    second = np.argmin(_paired(importance[..., None]), axis=2)[:, :, None]
    mine, other = (np.take_along_axis(pairs, at, axis=2) for at in (second, 1 - second))
    reach, beside = (np.take_along_axis(largest, at, axis=2) for at in (second, 1 - second))
    np.put_along_axis(pairs, second, limits.beside(mine, other, reach, beside), axis=2)
    return pairs.reshape(len(codes), -1, codes.shape[2])[:, : codes.shape[1]]


def rounded(
    target: Floats, scales: Floats, inputs: Floats, limits: Limits, factor: Factor | None
) -> tuple[Floats, Floats]:
    """Round weights so that what they make changes least, never by more than rounding to nearest.

    Args:
        target: `(groups, k + 1, out)`, the bias last.
        scales: `(groups, out)`.
        inputs: the second moments of the inputs, `(groups, k + 1, k + 1)`.
        limits: which codes there are.
        factor: of those moments, for weights that take up each other's errors; with None each is
            rounded to the nearest, and only the bias takes up.

    Returns:
        The codes, `(groups, k, out)`, and the bias.
    """
    weights, bias = target[:, :-1], target[:, -1]
    codes = nearest(weights / scales[:, None], np.einsum("gkk->gk", inputs)[:, :-1], limits)
    off = codes * scales[:, None] - weights
    taken = (inputs[:, -1:, :-1] @ off)[:, 0] / np.maximum(inputs[:, -1:, -1], 1e-20)
    if factor is None:
        return codes, bias - taken
    sweep = _Sweep(target, scales, limits, factor)
    sweep.run()
    found = [(codes, bias - taken), (sweep.codes, sweep.bias)]
    lost = [_changed(target, scales, inputs, *each) for each in found]
    wins = lost[1] <= lost[0]
    return np.where(wins[:, None], sweep.codes, codes), np.where(wins, sweep.bias, bias - taken)


def _changed(target: Floats, scales: Floats, inputs: Floats, codes: Floats, bias: Floats) -> Floats:
    """Return by how much codes and a bias change what is made, mean squares `(groups, out)`."""
    off = np.concatenate([codes * scales[:, None], bias[:, None]], axis=1) - target
    return np.asarray((off * (inputs @ off)).sum(axis=1))


def _cholesky(inputs: Floats) -> npt.NDArray[np.float32]:
    try:
        lower = np.linalg.cholesky(inputs.astype(np.float32))
    except np.linalg.LinAlgError:  # a small ridge, and inputs that say the same
        return np.linalg.cholesky(_damped(inputs.astype(np.float64), 1e-7)).astype(np.float32)
    return np.asarray(lower, np.float32)


class _Sweep:
    """Rounds weights one by one from the end of the factor's order.

    Those that are not rounded yet, and the bias at last, take up the error.
    """

    def __init__(self, target: Floats, scales: Floats, limits: Limits, factor: Factor) -> None:
        given = np.asarray(target, np.float32)
        self._given = np.take_along_axis(given, factor.order[:, :, None], axis=1)
        self._wished = self._given.copy()  # what each should be, given what others are
        self._scales, self._limits = np.asarray(scales, np.float32), limits
        self._order = factor.order
        # each column in units of its diagonal: what an error asks of those before it
        self._asked = factor.lower / np.einsum("gkk->gk", factor.lower)[:, None, :]
        self._each = np.arange(len(given))
        odd = (given.shape[1] - 1) % 2  # a last one stands by a zero
        self._coded = np.zeros((len(given), given.shape[1] - 1 + odd, given.shape[2]), np.float32)
        self._largest = np.pad(limits.largest, ((0, 0), (0, odd)), constant_values=1)
        alone = np.floor((limits.pair or np.inf) / self._largest)
        self._most, self._least = np.minimum(limits.high, alone), np.maximum(limits.low, -alone)

    def run(self) -> None:
        """Round all."""
        for stop in range(self._given.shape[1], 1, -BLOCK):
            self._block(max(stop - BLOCK, 1), stop)

    @property
    def codes(self) -> Floats:
        """The codes, `(groups, k, out)`."""
        return self._coded[:, : self._given.shape[1] - 1]

    @property
    def bias(self) -> Floats:
        """What the bias should be, once all is rounded."""
        return self._wished[:, 0]

    def _block(self, start: int, stop: int) -> None:
        """Round the columns from `stop` down to `start`."""
        errors = np.empty_like(self._wished[:, start:stop])
        for at in range(stop - 1, start - 1, -1):
            column = self._order[:, at]
            codes = self._rounded(self._wished[:, at] / self._scales, column)
            self._coded[self._each, column] = codes
            off = self._given[:, at] - codes * self._scales
            errors[:, at - start] = off
            self._wished[:, start:at] += self._asked[:, at, start:at, None] * off[:, None, :]
        rest = self._asked[:, start:stop, :start]
        self._wished[:, :start] += rest.transpose(0, 2, 1) @ errors

    def _rounded(self, values: Floats, column: npt.NDArray[np.int64]) -> Floats:
        """Round one column of each group, `(groups, out)`."""
        codes = np.rint(values)
        np.minimum(codes, self._most[self._each, column, None], out=codes)
        np.maximum(codes, self._least[self._each, column, None], out=codes)
        others = self._coded[self._each, column ^ 1]
        if not self._limits.pair or not others.any():  # its neighbour is not rounded yet
            return codes
        reach, beside = (self._largest[self._each, c, None] for c in (column, column ^ 1))
        return self._limits.beside(codes, others, reach, beside)
