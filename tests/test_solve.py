"""The mathematics of weights that make up for what is rounded, by properties."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.errors import InputError
from onchip.quantize import weights as rounding
from onchip.quantize.solve import (
    Factor,
    Limits,
    Moments,
    Solved,
    Tally,
    columns,
    nearest,
    rounded,
    solve,
    uncolumned,
)
from onchip.spec import QuantSpec

SPECS = {
    "plain": QuantSpec(),
    "pairs": QuantSpec(pair_limit=32767),
    "rockchip": QuantSpec(weight_top=126),
    "one scale": QuantSpec(per_channel=False),
    "four bits": QuantSpec(weight_bits=4),
}


@dataclass(frozen=True)
class Case:
    """A layer with random weights, what it should read and what it reads."""

    weights: np.ndarray
    bias: np.ndarray
    meant: np.ndarray  # (groups, n, k)
    read: np.ndarray

    @property
    def groups(self) -> int:
        return len(self.meant)

    def makes(self, weights: np.ndarray, bias: np.ndarray, read: np.ndarray) -> np.ndarray:
        return read @ columns(weights, self.groups) + bias.reshape(self.groups, 1, -1)

    @property
    def moments(self) -> Moments:
        groups, n, k = self.read.shape
        tally = Tally(groups, k, len(self.weights) // groups)
        wanted = self.makes(self.weights, self.bias, self.meant)
        missed = wanted - self.makes(self.weights, self.bias, self.read)
        for part in (slice(0, n // 3), slice(n // 3, n)):
            tally.add(self.read[:, part], missed[:, part], np.ones(n)[part])
        return tally.moments()

    def error(self, found: Solved) -> np.ndarray:
        """The mean squared error per output channel, from the samples themselves."""
        values = found.codes * found.scales[:, None, None, None]
        made = self.makes(values, found.bias, self.read)
        wanted = self.makes(self.weights, self.bias, self.meant)
        return np.asarray(((wanted - made) ** 2).mean(axis=1).ravel())


def case(shape: tuple[int, ...], groups: int, seed: int = 0, noise: float = 0.05) -> Case:
    random = np.random.default_rng(seed)
    k = int(np.prod(shape[1:]))
    mixed = random.normal(size=(groups, 400, k)) @ random.normal(size=(groups, k, k))
    meant = np.maximum(mixed / np.sqrt(k) + 0.3, 0).astype(np.float32)
    read = meant + random.normal(0, noise, meant.shape).astype(np.float32) if noise else meant
    weights = random.normal(0, 0.1, shape).astype(np.float32)
    return Case(weights, random.normal(size=shape[0]), meant, read)


SHAPES = {
    "dense": ((12, 8, 3, 3), 1),
    "depthwise": ((10, 1, 5, 5), 10),
    "grouped": ((8, 3, 3, 3), 4),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", SHAPES)
def test_each_step_lessens_the_error_that_the_samples_show(kind: str, spec: str) -> None:
    made, quant = case(*SHAPES[kind]), SPECS[spec]
    seen = made.moments

    def solved(**more: object) -> Solved:
        found = solve(made.weights, made.bias, seen, quant, **more)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.error, made.error(found), rtol=0.02, atol=1e-6)
        codes = columns(found.codes, made.groups)
        assert Limits.of(quant, made.weights.shape, made.groups).kept(codes).all()
        return found

    plain = solved(moves=False, compensates=False, searches=False).error.sum()
    rounded = solved(moves=False).error.sum()
    both = solved().error.sum()
    assert rounded <= plain * 1.001
    assert both <= rounded * 1.01
    assert both < plain


@pytest.mark.parametrize("kind", SHAPES)
def test_rounding_with_compensation_is_never_worse_than_nearest(kind: str) -> None:
    made = case(*SHAPES[kind], noise=0)
    limits = Limits.of(QuantSpec(), made.weights.shape, made.groups)
    held, inputs = columns(made.weights, made.groups), made.moments.inputs
    target = np.concatenate([held, np.zeros_like(held[:, :1])], axis=1)
    scales = np.abs(held).max(axis=1) / 7  # coarse: sixteen codes

    def lost(factor: Factor | None) -> np.ndarray:
        codes, last = rounded(target, scales, inputs, limits, factor)
        off = np.concatenate([codes * scales[:, None] - held, last[:, None]], axis=1)
        return np.asarray((off * (inputs @ off)).sum(axis=1))

    both = np.stack([lost(Factor.of(inputs, 1e-3)), lost(None)])
    assert both[0].sum() < 0.8 * both[1].sum()
    assert (both[0] <= both[1]).all()


def test_what_reads_exactly_and_has_many_bits_keeps_its_weights() -> None:
    for shape, groups in SHAPES.values():
        made = case(shape, groups, noise=0)
        found = solve(
            made.weights, made.bias, made.moments, QuantSpec(), compensates=False, searches=False
        )
        values = found.codes * found.scales[:, None, None, None]
        half = found.scales[:, None, None, None] / 2
        assert (np.abs(values - made.weights) <= 1.001 * half + 1e-6).all()
        move = Factor.of(made.moments.inputs, 1.0).solved(made.moments.missed)
        assert np.abs(move).max() < 1e-6


def test_weights_on_the_grid_stay_where_they_are() -> None:
    made = case((12, 8, 3, 3), 1, noise=0)
    scales = (np.abs(made.weights).max(axis=(1, 2, 3)) / 127)[:, None, None, None]
    codes = np.rint(made.weights / scales)
    made = Case((codes * scales).astype(np.float32), made.bias, made.meant, made.read)
    found = solve(made.weights, made.bias, made.moments, QuantSpec(), searches=False)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.bias, made.bias, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)))
def test_the_order_of_channels_does_not_matter(order: list[int]) -> None:
    made = case((5, 8, 1, 1), 1)
    other = Case(made.weights[:, order], made.bias, made.meant[:, :, order], made.read[:, :, order])
    first, second = (solve(c.weights, c.bias, c.moments, QuantSpec()) for c in (made, other))
    np.testing.assert_allclose(first.scales, second.scales, rtol=1e-4)
    assert (np.abs(first.codes[:, order].astype(int) - second.codes) <= 1).all()
    assert (first.codes[:, order] == second.codes).mean() > 0.95
    np.testing.assert_allclose(first.error, second.error, rtol=0.02)


def test_a_stronger_ridge_moves_weights_less_and_none_for_ever() -> None:
    seen = case((12, 8, 3, 3), 1, noise=0.3).moments
    ridges = (0.01, 0.1, 1, 10, 1e6)
    moves = [Factor.of(seen.inputs, ridge).solved(seen.missed) for ridge in ridges]
    sizes = [float(np.linalg.norm(m)) for m in moves]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-4 < sizes[0]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([0, 1, 7, 90, 200, 255]),
    st.sampled_from([(6, 5, 1, 1), (6, 4, 3, 3), (4, 3, 3, 3), (6, 2, 3, 3)]),
)
def test_no_pair_of_products_overflows_sixteen_bits(
    seed: int, top: int, shape: tuple[int, ...]
) -> None:
    quant = QuantSpec(pair_limit=32767)
    made = case(shape, 1, seed)
    random = np.random.default_rng(seed)
    largest = random.integers(0, top + 1, shape[1]).astype(np.float32)
    weights = made.weights * random.choice([1, 20], shape).astype(np.float32)
    found = solve(weights, made.bias, made.moments, quant, largest=largest)
    flat = rounding.rows(found.codes.astype(np.float32))
    products = flat * np.tile(largest, flat.shape[1] // shape[1])
    products = np.pad(products, ((0, 0), (0, flat.shape[1] % 2))).reshape(len(flat), -1, 2)
    assert np.maximum(products, 0).sum(axis=2).max() <= 32767
    assert np.maximum(-products, 0).sum(axis=2).max() <= 32767


def test_of_a_pair_the_less_important_gives_way() -> None:
    limits = Limits(-127, 127, 32767, np.full((1, 3), 255, np.float32))
    values = np.array([[[120.0], [100.0], [127.0]]])
    for importance, kept in (([1, 2, 1], 1), ([2, 1, 1], 0)):
        codes = nearest(values, np.asarray([importance], np.float32), limits)
        assert codes[0, kept, 0] == values[0, kept, 0] and codes[0, 2, 0] == 127
        assert limits.kept(codes).all()
    assert not limits.kept(values).any()


def test_columns_are_put_back_where_they_were() -> None:
    for shape, groups in SHAPES.values():
        weights = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        np.testing.assert_array_equal(uncolumned(columns(weights, groups), shape), weights)


def test_more_groups_at_once_are_what_each_is_alone() -> None:
    made = case((10, 1, 3, 3), 10)
    together = solve(made.weights, made.bias, made.moments, QuantSpec())
    for i in range(10):
        one = Case(
            made.weights[i : i + 1],
            made.bias[i : i + 1],
            made.meant[i : i + 1],
            made.read[i : i + 1],
        )
        alone = solve(one.weights, one.bias, one.moments, QuantSpec())
        assert np.abs(alone.codes[0].astype(int) - together.codes[i]).max() <= 1
        np.testing.assert_allclose(alone.scales[0], together.scales[i], rtol=1e-4)
        np.testing.assert_allclose(alone.error[0], together.error[i], rtol=0.02)


@pytest.mark.parametrize("spec", SPECS)
def test_dead_and_constant_channels_zero_rows_and_one_sample_are_no_trouble(spec: str) -> None:
    made = case((6, 4, 3, 3), 1)
    made.read[:, :, ::4] = 0  # a dead channel
    made.read[:, :, 1::4] = 2.5  # a constant one
    made.weights[2] = 0
    for samples in (400, 1):
        part = Case(made.weights, made.bias, made.meant[:, :samples], made.read[:, :samples])
        found = solve(part.weights, part.bias, part.moments, SPECS[spec])
        assert np.isfinite(found.bias).all() and (found.scales > 0).all()
        assert found.error.sum() <= part.moments.power.sum() * 1.05 + 1e-4
    nothing = Case(made.weights, made.bias, made.meant * 0, made.read * 0)
    found = solve(nothing.weights, nothing.bias, nothing.moments, SPECS[spec])
    near = rounding.codes(nothing.weights, found.scales, SPECS[spec])
    if not SPECS[spec].pair_limit:
        np.testing.assert_array_equal(found.codes, near)
    np.testing.assert_allclose(found.bias, nothing.bias)


def test_what_is_not_a_number_is_refused() -> None:
    made = case((6, 4, 3, 3), 1)
    for bad in (np.nan, np.inf):
        weights, bias = made.weights.copy(), made.bias.copy()
        weights[0, 0, 0, 0], bias[1] = bad, bad
        with pytest.raises(InputError, match="a weight is NaN or infinite"):
            solve(weights, made.bias, made.moments, QuantSpec())
        with pytest.raises(InputError, match="a weight is NaN or infinite"):
            solve(made.weights, bias, made.moments, QuantSpec())
        read = made.read.copy()
        read[0, 0, 0] = bad
        with pytest.raises(InputError, match="an activation is not a number"):
            _ = Case(made.weights, made.bias, made.meant, read).moments


@pytest.mark.parametrize("k", [1, 25, 63, 64, 150])
def test_the_factor_solves_what_it_was_made_of(k: int) -> None:
    random = np.random.default_rng(k)
    values = random.normal(size=(3, 2 * k, k + 1)).astype(np.float32)
    inputs, right = values.transpose(0, 2, 1) @ values, random.normal(size=(3, k + 1, 4))
    level = np.einsum("gkk->g", inputs)[:, None, None] / (k + 1)
    wanted = np.linalg.solve(inputs + 0.5 * level * np.eye(k + 1), right)
    found = Factor.of(inputs, 0.5).solved(right.astype(np.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
