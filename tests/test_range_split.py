"""A tensor in parts, each with a scale of its own: the network stays what it is."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.quantize.range_split import chains, parts, split

import graphs

FLOATS = st.floats(0, 100, width=32)


def depthwise(net: graphs.Net, x: str, channels: int, stride: int = 1) -> str:
    weight = net.const(net.random.normal(0, 0.3, (channels, 1, 3, 3)))
    bias = net.const(net.random.normal(0, 0.5, channels))
    return net.op("Conv", x, weight, bias, kernel_shape=[3, 3], pads=[1] * 4,
                  strides=[stride] * 2, group=channels)  # fmt: skip


def network(seed: int = 0) -> Model:
    """A stem with depthwise convolutions behind, read twice; then one that is joined."""
    net = graphs.Net(32, 32, seed)
    x = net.silu(net.conv("images", 3, 8, 3, 2, name="stem"))
    x = net.op("MaxPool", net.silu(depthwise(net, x, 8, 2)), kernel_shape=[3, 3], pads=[1] * 4)
    first = net.silu(net.conv(x, 8, 6, name="first"))
    second = net.op("LeakyRelu", depthwise(net, net.conv(x, 8, 6, name="second"), 6))
    joined = net.op("Concat", first, second, axis=1)
    return Model(net.model({"end": net.conv(joined, 12, 4, name="last")}), "")


def test_what_can_be_split() -> None:
    found = {c.node: c for c in chains(network())}
    assert set(found) == {"stem"}  # the others end in a join, or at the network's end
    assert found["stem"].readers == ("first", "second") and len(found["stem"].ends) == 1
    assert "stem_out" in found["stem"].inner and found["stem"].ends[0] not in found["stem"].inner


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_network_stays_what_it_is(seed: int, count: int) -> None:
    made = network(seed % 5)
    (stem,) = chains(made)
    ranges = np.random.default_rng(seed).exponential(size=8)
    again = split(made, stem, parts(ranges, count))
    noise = made.noise(seed)
    np.testing.assert_allclose(
        Runner(again.bytes)(noise)["end"], Runner(made.bytes)(noise)["end"], rtol=1e-4, atol=1e-5
    )
    layers = [n for n in again.proto.graph.node if n.name.startswith("stem/")]
    assert len(layers) == count


def test_a_reader_can_be_split_after_its_maker() -> None:
    net = graphs.Net(32, 32, 1)
    x = net.silu(depthwise(net, net.silu(net.conv("images", 3, 6, 3, name="a")), 6))
    x = net.silu(depthwise(net, net.silu(net.conv(x, 6, 6, name="b")), 6))
    made = Model(net.model({"end": net.conv(x, 6, 4)}), "")
    noise, again = made.noise(0), made
    for name in ("b", "a"):
        chain = next(c for c in chains(again) if c.node == name)
        again = split(again, chain, parts(np.arange(1.0, 7.0), 3))
    np.testing.assert_allclose(
        Runner(again.bytes)(noise)["end"], Runner(made.bytes)(noise)["end"], rtol=1e-4, atol=1e-5
    )


def coarseness(ranges: np.ndarray, groups: list[np.ndarray]) -> float:
    sizes = np.maximum(ranges, 1e-2 * ranges.max() + 1e-12)
    return float(sum(np.sum((sizes[g].max() / sizes[g]) ** 2) for g in groups))


@given(arrays.arrays(np.float64, st.integers(3, 8), elements=FLOATS), st.integers(1, 3))
def test_no_other_cut_serves_better(ranges: np.ndarray, count: int) -> None:
    found = parts(ranges, count)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(ranges)))
    order = np.argsort(ranges, kind="stable")
    best = min(
        coarseness(ranges, np.split(order, cuts))
        for cuts in combinations(range(1, len(ranges)), count - 1)
    )
    assert coarseness(ranges, found) == pytest.approx(best)
