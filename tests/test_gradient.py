"""Gradients of inference graphs, against differences of the graphs themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onchip.graph.clean import clean
from onchip.graph.gradient import Backward, BackwardRunner, backward
from onchip.graph.prove import cut
from onchip.graph.read import Model, read
from onchip.graph.run import Runner
from onchip.graph.split import split_ends

import graphs

RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def one(
    kind: str, *constants: np.ndarray | None, shape: tuple[int, ...] = (1, 4, 7, 6), **fields: Any
) -> Model:
    """A network of a single node; its first input is the network's, the others are constants."""
    inputs, made = ["x"], []
    for number, values in enumerate(constants):
        inputs.append("" if values is None else f"c{number}")
        if values is not None:
            made.append(numpy_helper.from_array(values, f"c{number}"))
    outputs = 2 if kind == "Split" else 1
    node = helper.make_node(kind, inputs, [f"y{i}" for i in range(outputs)], "n", **fields)
    return whole([node], made, shape, outputs)


def whole(
    nodes: list[onnx.NodeProto],
    made: list[onnx.TensorProto],
    shape: tuple[int, ...],
    outputs: int = 1,
) -> Model:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    ends = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)]
    graph = helper.make_graph(nodes, "g", [image], ends, made)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model(onnx.shape_inference.infer_shapes(proto), "")


def ended(made: Backward, names: list[str]) -> BackwardRunner:
    """The gradients of some tensors as the graph's outputs."""
    for name in names:
        value = helper.make_tensor_value_info(made.gradients[name], TensorProto.FLOAT, None)
        made.proto.graph.output.append(value)
    return BackwardRunner(made)


def shifted(model: Model, tensor: str, step: np.ndarray) -> Model:
    """The same network with something added to a tensor."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    at = 0
    for number, node in enumerate(graph.node):
        for index, name in enumerate(node.output):
            if name == tensor:
                node.output[index], at = f"{tensor}/before", number + 1
    source = f"{tensor}/before"
    if not at:  # the network's input
        source = tensor
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == tensor:
                    node.input[index] = f"{tensor}/after"
    target = tensor if at else f"{tensor}/after"
    graph.initializer.append(numpy_helper.from_array(step.astype(np.float32), f"{tensor}/step"))
    graph.node.insert(at, helper.make_node("Add", [source, f"{tensor}/step"], [target]))
    return model.changed(proto)


def agrees(model: Model, image: np.ndarray, tensors: list[str], eps: float) -> None:
    """Compare the gradient along a random direction with the difference of two runs."""
    shapes = model.shapes
    cotangents = {o.name: normal(*shapes[o.name]) for o in model.outputs}
    made = backward(model, tensors)
    assert not made.unknown
    found = ended(made, tensors)(image, cotangents)
    for name in tensors:
        gradient = found[made.gradients[name]]
        assert gradient.shape == shapes[name]
        direction = normal(*shapes[name])
        ends = []
        for sign in (1, -1):
            run = Runner(shifted(model, name, sign * eps * direction).bytes, threads=1)
            results = run(image)
            ends.append(
                sum((c.astype(np.float64) * results[o]).sum() for o, c in cotangents.items())
            )
        wanted = (ends[0] - ends[1]) / (2 * eps)
        size = float(np.linalg.norm(gradient))
        assert abs(wanted - float((gradient * direction).sum())) < 0.02 * size + 1e-3, name


CONV = {"kernel_shape": [3, 3]}
OPERATORS = {
    "conv": one("Conv", normal(6, 4, 3, 3), normal(6), pads=[1, 1, 1, 1], **CONV),
    "conv-stride": one("Conv", normal(6, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], **CONV),
    "conv-lopsided": one("Conv", normal(6, 4, 3, 3), pads=[0, 1, 2, 0], strides=[2, 1], **CONV),
    "conv-depthwise": one("Conv", normal(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], **CONV),
    "conv-groups": one("Conv", normal(6, 2, 3, 3), group=2, pads=[1, 1, 1, 1], **CONV),
    "conv-wide": one("Conv", normal(5, 4, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2], **CONV),
    "conv-overhang": one("Conv", normal(5, 4, 1, 1), pads=[1, 1, 1, 1], kernel_shape=[1, 1]),
    "conv-same": one("Conv", normal(5, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2], **CONV),
    "conv-lower": one("Conv", normal(5, 4, 2, 2), auto_pad="SAME_LOWER", kernel_shape=[2, 2]),
    "transposed": one("ConvTranspose", normal(4, 5, 2, 2), strides=[2, 2], kernel_shape=[2, 2]),
    "transposed-groups": one(
        "ConvTranspose",
        normal(4, 3, 3, 3),
        group=2,
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
        **CONV,
    ),
    "gemm": one("Gemm", normal(6, 5), normal(5), shape=(3, 6), alpha=0.5),
    "gemm-turned": one("Gemm", normal(5, 6), shape=(3, 6), transB=1),
    "matmul": one("MatMul", normal(6, 5)),
    "add": one("Add", normal(1, 4, 1, 1)),
    "sub": one("Sub", normal(4, 1, 1)),
    "mul": one("Mul", normal(1, 4, 1, 1)),
    "div": one("Div", np.float32(2) + normal(4, 1, 1) ** 2),
    "sigmoid": one("Sigmoid"),
    "tanh": one("Tanh"),
    "exp": one("Exp"),
    "softplus": one("Softplus"),
    "relu": one("Relu"),
    "clip": one("Clip", np.float32(-0.5), np.float32(1)),
    "leaky": one("LeakyRelu", alpha=0.1),
    "prelu": one("PRelu", normal(4, 1, 1)),
    "hardsigmoid": one("HardSigmoid", alpha=0.3),
    "hardswish": one("HardSwish"),
    "softmax": one("Softmax", axis=1),
    "identity": one("Identity"),
    "reshape": one("Reshape", ints(1, 2, 2, 42)),
    "flatten": one("Flatten"),
    "transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "split": one("Split", ints(1, 3), axis=1),
    "slice": one("Slice", ints(1, -4), ints(3, 2**31), ints(1, -1)),
    "nearest": one(
        "Resize",
        None,
        np.float32([1, 1, 2, 3]),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "linear": one("Resize", None, np.float32([1, 1, 2, 0.5]), mode="linear"),
    "sizes": one("Resize", None, None, ints(1, 4, 10, 5), mode="cubic"),
    "max": one("MaxPool", strides=[2, 2], pads=[1, 1, 1, 1], **CONV),
    "max-overlapping": one("MaxPool", kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
    "average": one("AveragePool", strides=[2, 2], pads=[1, 1, 1, 1], **CONV),
    "average-padding": one("AveragePool", pads=[1, 1, 1, 1], count_include_pad=1, **CONV),
    "global": one("GlobalAveragePool"),
    "mean": one("ReduceMean", axes=[2, 3], keepdims=0),
    "sum": one("ReduceSum", ints(1), keepdims=1),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_agrees_with_differences(name: str) -> None:
    model = OPERATORS[name]
    image = normal(*model.inputs[0].shape)
    # apart from each other and from every kink, so that no step of the differences meets one
    image = np.sign(image) * (np.abs(image) + 0.05)
    agrees(model, image, ["x"], 1e-3 if "max" in name else 4e-3)


def test_a_product_of_two_paths_has_both_gradients() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], "s"),
        helper.make_node("GlobalAveragePool", ["s"], ["g"], "g"),
        helper.make_node("Mul", ["x", "g"], ["m"], "m"),
        helper.make_node("Concat", ["m", "s", "x"], ["k"], "k", axis=1),
        helper.make_node("Div", ["k", "h"], ["y0"], "d"),
        helper.make_node("Slice", ["k", "a", "b", "c"], ["h"], "h"),
    ]
    nodes[4], nodes[5] = nodes[5], nodes[4]
    made = [numpy_helper.from_array(ints(v), n) for n, v in (("a", 4), ("b", 5), ("c", 1))]
    agrees(whole(nodes, made, (1, 4, 5, 6)), normal(1, 4, 5, 6), ["x", "s", "g", "m", "k"], 1e-3)


def test_attention_of_two_products_has_gradients() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["m"], "m"),
        helper.make_node("Softmax", ["m"], ["s"], "s"),
        helper.make_node("MatMul", ["s", "x"], ["y0"], "y"),
    ]
    agrees(whole(nodes, [], (1, 5, 6)), normal(1, 5, 6), ["x", "t", "m", "s"], 1e-3)


def test_what_has_no_rule_is_told_and_spoils_no_other() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "first"),
        helper.make_node("Erf", ["r"], ["e"], "odd"),
        helper.make_node("Sigmoid", ["e"], ["y0"], "last"),
        helper.make_node("Tanh", ["x"], ["lost"], "aside"),
    ]
    made = backward(whole(nodes, [], (1, 3, 4, 4)), ["x", "r", "e", "y0", "lost"])
    assert set(made.gradients) == {"e", "y0"}
    assert made.unknown["r"] == made.unknown["x"] == "no rule for Erf (odd)"
    assert made.unknown["lost"] == "it leads to no output"


@pytest.mark.parametrize(
    "name", ["yolov5", "yolov6", "yolov8", "yolo26", "yolox", "nanodet", "ssd", "damo"]
)
def test_every_head_has_gradients_in_all_its_tensors(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(graphs.BUILDERS[name](), path)
    model = split_ends(cut(clean(read(path)).model)).model
    tensors = [o for n in model.proto.graph.node for o in n.output]
    assert not backward(model, tensors).unknown
    chosen = tensors[:: max(1, len(tensors) // 6)]
    agrees(model, np.asarray(model.noise(3), np.float32), chosen, 1e-2)
