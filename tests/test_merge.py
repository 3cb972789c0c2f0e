"""Convolutions of few rows that read one tensor are one, and give the codes that they gave."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onchip.quantize.merge import merged

SIZES = (3, 5, 4)


def graph(zeros: Sequence[int], seed: int = 0) -> onnx.ModelProto:
    """Three convolutions of integers that read one tensor, each rounded in its own way."""
    random = np.random.default_rng(seed)
    nodes, constants = [], []

    def const(name: str, values: object, kind: type) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def codes(name: str, values: object, kind: type, scales: object) -> str:
        rows = np.zeros(len(np.asarray(scales)), kind)
        inputs = [
            const(f"{name}/codes", values, kind),
            const(f"{name}/scale", scales, np.float32),
            const(f"{name}/zero", rows, kind),
        ]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name, axis=0))
        return name

    step = 0.02
    entry = [const("x/scale", step, np.float32), const("x/zero", 3, np.uint8)]
    nodes.append(helper.make_node("DequantizeLinear", ["x", *entry], ["values"], "x/d"))
    for number, (rows, zero) in enumerate(zip(SIZES, zeros, strict=True)):
        name, scales = f"conv{number}", random.uniform(0.001, 0.01, rows)
        weight = codes(
            f"{name}/weight", random.integers(-127, 128, (rows, 6, 3, 3)), np.int8, scales
        )
        bias = codes(f"{name}/bias", random.integers(-999, 999, rows), np.int32, scales * step)
        made = helper.make_node(
            "Conv", ["values", weight, bias], [f"{name}/float"], name, pads=[1] * 4
        )
        own = [
            const(f"{name}/scale", random.uniform(0.01, 0.2), np.float32),
            const(f"{name}/zero", zero, np.uint8),
        ]
        nodes += [
            made,
            helper.make_node("QuantizeLinear", [f"{name}/float", *own], [name], f"{name}/q"),
        ]
    outputs = [
        helper.make_tensor_value_info(f"conv{i}", TensorProto.UINT8, (1, n, 16, 16))
        for i, n in enumerate(SIZES)
    ]
    entered = [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 6, 16, 16))]
    made_graph = helper.make_graph(nodes, "g", entered, outputs, constants)
    return helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(data: bytes, level: ort.GraphOptimizationLevel) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    values = np.random.default_rng(1).integers(0, 256, (1, 6, 16, 16)).astype(np.uint8)
    found: list[np.ndarray] = ort.InferenceSession(data, options).run(None, {"x": values})
    return found


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("zeros", [(128, 128, 128), (0, 77, 255)])
def test_codes_are_what_they_were(zeros: tuple[int, ...], level: str) -> None:
    before = graph(zeros).SerializeToString()
    after = merged(before)
    kinds = [n.op_type for n in onnx.load_from_string(after).graph.node]
    assert kinds.count("Conv") == 1 and kinds.count("Split") == 1
    onnx.checker.check_model(after)
    chosen = getattr(ort.GraphOptimizationLevel, level)
    for one, other in zip(run(before, chosen), run(after, chosen), strict=True):
        assert len(np.unique(one)) > 20
        apart = np.abs(one.astype(int) - other)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.005  # sums on the border of two codes


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
    data = wide.SerializeToString()
    assert merged(data) == onnx.ModelProto.FromString(data).SerializeToString()


def test_convolutions_that_differ_stay_apart() -> None:
    wide = graph((0, 0, 0))
    for node in wide.graph.node:
        if node.name == "conv1":
            node.attribute.append(helper.make_attribute("dilations", [1, 1]))
        if node.name == "conv2":  # its sums are an output, too
            wide.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    data = wide.SerializeToString()
    assert merged(data) == onnx.ModelProto.FromString(data).SerializeToString()
