"""Convolutions of few rows that read one tensor are one, and give the codes that they gave."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onchip.quantize.merge import merged

SIZES = (3, 5, 4)
LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"]


class Net:
    """Writes layers of integers, each rounded in its own way."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outputs: list[str] = []
        self.scales: dict[str, float] = {}
        self.read("x", 0.02, 3, "values")

    def const(self, name: str, values: object, kind: type) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **fields: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **fields))
        return name

    def step(self, name: str, scale: float, zero: int) -> list[str]:
        return [
            self.const(f"{name}/scale", scale, np.float32),
            self.const(f"{name}/zero", zero, np.uint8),
        ]

    def read(self, codes: str, scale: float, zero: int, name: str) -> str:
        self.scales[name] = scale
        return self.node("DequantizeLinear", name, codes, *self.step(codes, scale, zero))

    def rounded(self, x: str, zero: int, scale: float) -> str:
        """Round a tensor, and return what its codes say."""
        codes = f"{x}/codes"
        self.node("QuantizeLinear", codes, x, *self.step(x, scale, zero))
        return self.read(codes, scale, zero, f"{x}/read")

    def weights(self, name: str, codes: np.ndarray, scales: np.ndarray, kind: type) -> str:
        inputs = [
            self.const(f"{name}/codes", codes, kind),
            self.const(f"{name}/scale", scales, np.float32),
            self.const(f"{name}/zero", np.zeros(len(scales)), kind),
        ]
        return self.node("DequantizeLinear", name, *inputs, axis=0)

    def conv(self, x: str, name: str, shape: tuple[int, ...], zero: int, **fields: object) -> str:
        """Add a convolution whose codes are an output of the graph."""
        scales = self.random.uniform(0.001, 0.01, shape[0])
        codes, biases = (self.random.integers(-n, n, k) for n, k in ((127, shape), (999, shape[0])))
        weight = self.weights(f"{name}/weight", codes, scales, np.int8)
        steps = scales * self.scales[x]
        bias = self.weights(f"{name}/bias", biases, steps, np.int32)
        scale = steps.mean() * codes[0].size ** 0.5 * self.random.uniform(20, 70)
        made = self.node("Conv", name, x, weight, bias, **fields)
        read = self.rounded(made, zero, scale)
        self.outputs.append(f"{name}/codes")
        return read

    def model(self) -> onnx.ModelProto:
        infos = [
            helper.make_tensor_value_info(n, TensorProto.UINT8, [None] * 4) for n in self.outputs
        ]
        entry = helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 6, 17, 16))
        made = helper.make_graph(self.nodes, "g", [entry], infos, self.constants)
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def graph(zeros: Sequence[int], sizes: Sequence[int] = SIZES) -> onnx.ModelProto:
    """Convolutions of integers that read one tensor."""
    net = Net()
    for number, (rows, zero) in enumerate(zip(sizes, zeros, strict=True)):
        net.conv("values", f"conv{number}", (rows, 6, 3, 3), zero, pads=[1] * 4)
    return net.model()


def deep(reads: Sequence[int], zeros: Sequence[int], **fields: object) -> onnx.ModelProto:
    """Depthwise convolutions, each behind its own rounding of one tensor's activations."""
    net = Net()
    for number, (read, zero) in enumerate(zip(reads, zeros, strict=True)):
        x = net.rounded(
            net.node("LeakyRelu", f"leaky{number}", "values", alpha=0.1), read, 0.02 * (1 + number)
        )
        net.conv(x, f"deep{number}", (6, 1, 3, 3), zero, group=6, **fields)
    return net.model()


def kinds(data: bytes) -> Counter[str]:
    return Counter(n.op_type for n in onnx.load_from_string(data).graph.node)


def unmerged(model: onnx.ModelProto) -> bool:
    data = model.SerializeToString()
    return merged(data) == onnx.ModelProto.FromString(data).SerializeToString()


def run(data: bytes, level: ort.GraphOptimizationLevel) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    values = np.random.default_rng(1).integers(0, 256, (1, 6, 17, 16)).astype(np.uint8)
    found: list[np.ndarray] = ort.InferenceSession(data, options).run(None, {"x": values})
    return found


def same(before: bytes, after: bytes, level: str) -> None:
    """Codes stay, but those of sums on the border of two."""
    onnx.checker.check_model(after, full_check=True)
    chosen = getattr(ort.GraphOptimizationLevel, level)
    for one, other in zip(run(before, chosen), run(after, chosen), strict=True):
        assert len(np.unique(one)) > 20
        apart = np.abs(one.astype(int) - other)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.005


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("zeros", [(128, 128, 128), (0, 77, 255)])
def test_codes_are_what_they_were(zeros: tuple[int, ...], level: str) -> None:
    before = graph(zeros).SerializeToString()
    after = merged(before)
    assert (kinds(after)["Conv"], kinds(after)["Split"], kinds(after)["Concat"]) == (1, 1, 0)
    same(before, after, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("fields", [{"pads": [1, 0, 2, 1]}, {"strides": [2, 2]}, {"pads": [1] * 4}])
@pytest.mark.parametrize("reads", [(9, 40, 128), (30, 30, 30)])
def test_depthwise_parts_read_codes_that_are_joined(
    reads: tuple[int, ...], fields: dict[str, list[int]], level: str
) -> None:
    before = deep(reads, (120, 50, 128), **fields).SerializeToString()
    after = merged(before)
    assert (kinds(after)["Conv"], kinds(after)["Concat"]) == (1, 1)
    padded = len(set(reads)) > 1 and "pads" in fields
    assert kinds(after)["Pad"] == (len(reads) if padded else 0)
    # the entry, the joined codes, weights, bias, and the results
    assert kinds(after)["DequantizeLinear"] == 4 + len(reads)
    same(before, after, level)


def test_a_part_read_before_the_others_are_made_is_sorted() -> None:
    """As joined convolutions come where the last part was, and a reader of the first before it."""
    net = Net()
    for number in range(2):
        x = net.rounded(
            net.node("LeakyRelu", f"leaky{number}", "values", alpha=0.1), 50 * number, 0.02
        )
        made = net.conv(x, f"deep{number}", (6, 1, 3, 3), 128, group=6)
        net.outputs.append(
            f"{net.rounded(net.node('Sigmoid', f'end{number}', made), 0, 0.004)[:-5]}/codes"
        )
    before = net.model().SerializeToString()
    after = merged(before)
    assert kinds(after)["Conv"] == 1
    same(before, after, "ORT_ENABLE_ALL")


def test_layers_one_after_the_other_stay_apart() -> None:
    net, x = Net(), "values"
    for number in range(3):
        x = net.conv(x, f"deep{number}", (6, 1, 3, 3), 128, group=6, pads=[1] * 4)
    assert unmerged(net.model())


def test_a_thousand_gated_layers_one_after_the_other() -> None:
    """Each is read twice, so that what made it has two to the thousandth ways back."""
    net, x = Net(), "values"
    for number in range(1000):
        x = net.conv(x, f"deep{number}", (6, 1, 1, 1), 128, group=6)
        x = net.rounded(net.node("Mul", f"gate{number}", x, x), 9, 0.02)
    net.outputs = net.outputs[-1:]
    assert unmerged(net.model())


def test_different_pieces_of_one_tensor_stay_apart() -> None:
    net = Net()
    sizes = net.const("sizes", (7, 10), np.int64)
    net.nodes.append(helper.make_node("Split", ["values", sizes], ["top", "rest"], axis=2))
    for number, (piece, zero) in enumerate((("top", 9), ("rest", 40))):
        net.conv(net.rounded(piece, zero, 0.02), f"deep{number}", (6, 1, 3, 3), 128, group=6)
    assert unmerged(net.model())


def test_layers_of_different_tensors_stay_apart() -> None:
    net = Net()
    for number, alpha in enumerate((0.1, 0.2)):
        x = net.rounded(net.node("LeakyRelu", f"leaky{number}", "values", alpha=alpha), 9, 0.02)
        net.conv(x, f"deep{number}", (6, 1, 3, 3), 128, group=6)
    assert unmerged(net.model())


def test_parts_of_many_rows_stay_apart() -> None:
    assert unmerged(graph((1, 2), sizes=(16, 16)))
    assert unmerged(graph((1, 2), sizes=(17, 3)))
    assert not unmerged(graph((1, 2), sizes=(16, 3)))


def test_pads_that_a_runtime_works_out_stay_its_own() -> None:
    assert unmerged(deep((9, 40), (1, 2), auto_pad="SAME_UPPER"))
    assert not unmerged(deep((9, 40), (1, 2), auto_pad="NOTSET"))


def test_sixteen_bits_stay_apart() -> None:
    wide = graph((0, 0, 0))
    wide.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    zeros = {n.input[2] for n in wide.graph.node if n.op_type == "QuantizeLinear"}
    for node in wide.graph.node:
        if node.op_type == "QuantizeLinear":
            node.domain = "com.microsoft"
    for constant in wide.graph.initializer:
        if constant.name in zeros:
            constant.CopyFrom(numpy_helper.from_array(np.uint16(0), constant.name))
    assert unmerged(wide)


def test_convolutions_that_differ_stay_apart() -> None:
    wide = graph((0, 0, 0))
    for node in wide.graph.node:
        if node.name == "conv1":
            node.attribute.append(helper.make_attribute("dilations", [1, 1]))
        if node.name == "conv2":  # its sums are an output, too
            wide.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    assert unmerged(wide)
