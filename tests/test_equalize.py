"""Scale moved between channels: the network stays what it is, and its tensors fill their codes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.quantize import equalize
from onchip.quantize.observe import observe
from onchip.quantize.regions import Regions, divide
from onchip.quantize.stats import Stats
from onchip.spec import HeadSpec
from onchip.targets.cpu import Cpu

import graphs

HEAD = HeadSpec(family="none", coding="query", scoring="sigmoid", labels=(), tensors=())


def model(net: graphs.Net, *ends: str) -> Model:
    proto = net.model({f"end{i}": x for i, x in enumerate(ends)})
    for node in proto.graph.node:  # ends are no Identity of the graph's own
        node.name = node.name or node.output[0]
    return Model(proto, "")


def shuffled(net: graphs.Net, x: str, channels: int, height: int, width: int) -> str:
    """A channel shuffle, as ShuffleNet has it."""
    x = net.reshape(x, 1, 2, channels // 2, height, width)
    return net.reshape(net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), 1, channels, height, width)


def shuffle_net(seed: int) -> Model:
    net = graphs.Net(32, 32, seed)
    x = net.op("LeakyRelu", net.conv("images", 3, 8, 3, 2), alpha=0.1)
    left, right = net.split(x, (4, 4), 1)
    right = net.op("Relu", net.conv(right, 4, 4))
    x = shuffled(net, net.op("Concat", left, right, axis=1), 8, 16, 16)
    x = net.op("Add", x, net.op("Relu", net.conv(x, 8, 8, 3)))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    gated = net.silu(net.conv(x, 8, 8))
    return model(net, net.conv(gated, 8, 4), net.conv(x, 8, 4))


def test_channels_that_must_stay_together() -> None:
    made = shuffle_net(0)
    found = equalize.channels(made)
    first = next(n for n in made.proto.graph.node if n.op_type == "Conv")
    stem = found.classes[first.output[0]]
    assert len(set(stem)) == 8 and equalize.PINNED not in stem
    for node in made.proto.graph.node:
        if node.op_type in ("LeakyRelu", "MaxPool"):
            assert list(found.classes[node.input[0]]) == list(found.classes[node.output[0]])
        if node.op_type == "Sigmoid":
            assert set(found.classes[node.input[0]]) == {equalize.PINNED}
    for output in made.outputs:
        assert set(found.classes[output.name]) == {equalize.PINNED}


def test_a_shuffle_is_followed() -> None:
    made = shuffle_net(0)
    found = equalize.channels(made)
    concat = next(n for n in made.proto.graph.node if n.op_type == "Concat")
    add = next(n for n in made.proto.graph.node if n.op_type == "Add")
    before, after = found.classes[concat.output[0]], found.classes[add.input[0]]
    assert list(after) == [before[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_any_scales_leave_the_network_as_it_is(seed: int) -> None:
    made = shuffle_net(seed % 7)
    found = equalize.channels(made)
    by = np.random.default_rng(seed).uniform(0.1, 10, found.count)
    by[equalize.PINNED] = 1.0
    again = equalize.scaled(made, found, by)
    wanted, seen = (Runner(m.bytes)(made.noise(seed)) for m in (made, again))
    for name, values in wanted.items():
        np.testing.assert_allclose(seen[name], values, rtol=1e-3, atol=1e-4)


def test_channels_reach_as_far_as_the_widest() -> None:
    net = graphs.Net(32, 32, 6)
    x = net.op("Relu", net.conv("images", 3, 6, 3))
    made = model(net, net.conv(x, 6, 4))
    by = np.geomspace(1 / 8, 1, equalize.channels(made).count)
    by[equalize.PINNED] = 1.0
    made = equalize.scaled(made, equalize.channels(made), by)  # now its channels differ in width
    found, regions = equalize.channels(made), divide(made, HEAD, Cpu.quant)
    seen = watched(made, regions)
    again = equalize.scaled(made, found, equalize.factors(found, regions, seen))
    before, after = seen[x].high, watched(again, regions)[x].high
    assert after.max() == pytest.approx(before.max(), rel=1e-4)
    live = before > 0  # one is dead behind its ReLU
    assert (after[live] > 0.5 * after.max()).all() and not (before[live] > 0.5 * before.max()).all()


def watched(made: Model, regions: Regions) -> dict[str, Stats]:
    noise = [made.noise(i) for i in range(4)]
    return observe(made, HEAD, regions, ((lambda t=t: t) for t in noise))


def test_a_channel_without_values_is_left_alone() -> None:
    found = equalize.Channels({"x": np.array([1, 2])}, 3)
    regions = divide(shuffle_net(0), HEAD, Cpu.quant)
    assert equalize.factors(found, regions, {}).tolist() == [1, 1, 1]


def test_a_channel_grows_by_so_much_and_no_more() -> None:
    stats = Stats()
    stats.add(np.array([[0, 1.0], [0, 1e-6], [0, 0]], np.float32), np.ones(2))
    made = shuffle_net(0)
    regions = replace(divide(made, HEAD, Cpu.quant), groups={"x": "x"})
    found = equalize.Channels({"x": np.array([1, 2, 3])}, 4)
    by = equalize.factors(found, regions, {"x": stats})
    assert by.tolist() == [1, 1, equalize.LEAST, 1]
