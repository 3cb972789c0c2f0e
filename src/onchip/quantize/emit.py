"""A plan becomes a QDQ graph: standard ONNX that any runtime can run, and that says every scale.

Producers are renamed, so that each tensor's own name is its value after rounding:
`conv -> T/float -> QuantizeLinear -> T/codes -> DequantizeLinear -> T`.
"""

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onchip.graph.read import Model
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan
from onchip.quantize.regions import CLAMPS, Regions
from onchip.quantize.weights import coded_bias
from onchip.vision.codes import CODES, Scale

SIXTEEN = "com.microsoft"  # the standard's own QuantizeLinear has 16 bits only from opset 21 on


def emit(
    model: Model,
    regions: Regions,
    plan: QuantPlan,
    *,
    pixel: float | None = None,
    whole: bool = False,
) -> onnx.ModelProto:
    """Write a plan as a QDQ graph.

    Args:
        model: the cut float graph.
        regions: how it divides on the chip, as the plan was made with.
        plan: the decision.
        pixel: what one step of a pixel is to the network, for a graph that takes bytes.
        whole: also write the scales of tensors that the chip does not round, for a compiler that
            wants them; such a graph rounds more than the chip does.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    tensors = {t.name: t for t in plan.tensors if whole or t.rounded}
    layers = {x.node: x for x in plan.layers if x.precision in ("int8", "int16")}
    nodes: list[onnx.NodeProto] = []
    made: list[onnx.TensorProto] = []
    entry = graph.input[0].name
    entered = entry in tensors or pixel is not None
    if entered:
        nodes += _enter(entry, tensors.get(entry), plan, made, pixel)
    if pixel is not None:
        graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    for node in _without_clamps(model, regions, plan):
        _rename(node.input, {entry: f"{entry}/values"} if entered else {})
        if node.name in layers:
            nodes += _weights(node, model, plan, layers[node.name], made)
        made_here = [o for o in node.output if o in tensors]
        _rename(node.output, {o: f"{o}/float" for o in made_here})
        nodes.append(node)
        for name in made_here:
            nodes += _round(name, f"{name}/float", name, tensors[name], plan, made)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(made)
    if any(t.bits == 16 for t in tensors.values()):
        proto.opset_import.append(helper.make_opsetid(SIXTEEN, 1))
    drop_unused(graph)
    del graph.value_info[:]
    return proto


def end_in_codes(qdq: bytes) -> bytes:
    """Return a QDQ graph whose outputs are integers wherever the plan rounds them.

    Each keeps its name; what its codes stand for is told in the file's metadata (`codes_of`).
    """
    proto = onnx.ModelProto.FromString(qdq)
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    used = {name for node in graph.node for name in node.input}
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    codes: dict[str, Scale] = {}
    for output in graph.output:
        last = makers[output.name]
        if last.op_type != "DequantizeLinear" or output.name in used:
            continue
        scale, zero = (constants[name] for name in last.input[1:])
        graph.node.remove(last)
        _rename(makers[last.input[0]].output, {last.input[0]: output.name})
        output.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(zero.dtype)
        codes[output.name] = (float(scale), float(zero))
    helper.set_model_props(proto, {CODES: msgspec.json.encode(codes).decode()})
    return proto.SerializeToString()


def _rename(names: "list[str]", new: dict[str, str]) -> None:
    for index, name in enumerate(names):
        names[index] = new.get(name, name)


def _without_clamps(model: Model, regions: Regions, plan: QuantPlan) -> list[onnx.NodeProto]:
    """Copy the nodes, leaving out activations that the range of their output already is.

    It is not where the output shares its scale with a tensor that goes below zero.
    """
    ends = {t.name for t in plan.tensors if t.zero == plan.quant.with_bits(t.bits).qmin}
    dropped = {
        x.members[1]: x
        for x in regions.layers
        if x.activation in CLAMPS and x.node in regions.integer and x.output in ends
    }
    outputs = {x.raw: x.output for x in dropped.values()}
    copies = []
    for node in model.proto.graph.node:
        if node.name in dropped:
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        _rename(copy.output, outputs)
        copies.append(copy)
    return copies


def _enter(
    name: str,
    tensor: TensorPlan | None,
    plan: QuantPlan,
    made: list[onnx.TensorProto],
    pixel: float | None,
) -> list[onnx.NodeProto]:
    """Round the input to codes; bytes are their own codes, read by integers or floats."""
    if pixel is None:
        assert tensor is not None
        return _round(name, name, f"{name}/values", tensor, plan, made)
    scale, zero = f"{name}/scale", f"{name}/zero"
    made.append(numpy_helper.from_array(np.asarray(pixel, np.float32), scale))
    made.append(numpy_helper.from_array(np.asarray(0, np.uint8), zero))
    inputs = [name, scale, zero]
    values = f"{name}/values"
    return [helper.make_node("DequantizeLinear", inputs, [values], f"{name}/dequantize")]


def _round(
    name: str,
    source: str,
    target: str,
    tensor: TensorPlan,
    plan: QuantPlan,
    made: list[onnx.TensorProto],
) -> list[onnx.NodeProto]:
    kind = np.dtype(f"{'' if plan.quant.activation_signed else 'u'}int{tensor.bits}")
    domain = {"domain": SIXTEEN} if tensor.bits == 16 else {}
    scale, zero = f"{name}/scale", f"{name}/zero"
    made.append(numpy_helper.from_array(np.asarray(tensor.scale, np.float32), scale))
    made.append(numpy_helper.from_array(np.asarray(tensor.zero, kind), zero))
    codes = f"{name}/codes"
    return [
        helper.make_node(
            "QuantizeLinear", [source, scale, zero], [codes], f"{name}/quantize", **domain
        ),
        helper.make_node(
            "DequantizeLinear", [codes, scale, zero], [target], f"{name}/dequantize", **domain
        ),
    ]


def _weights(
    node: onnx.NodeProto,
    model: Model,
    plan: QuantPlan,
    layer: LayerPlan,
    made: list[onnx.TensorProto],
) -> list[onnx.NodeProto]:
    """Replace a layer's float weight and bias by codes and their dequantization."""
    values = np.asarray(model.constants[node.input[1]], np.float32)
    scales = np.asarray(layer.scales, np.float32)
    data = node.input[0].removesuffix("/values")
    step = next(t.scale for t in plan.tensors if t.name == data)
    shift = np.asarray(layer.bias_shift or np.zeros(len(scales)), np.float64)
    bias = -shift
    if len(node.input) > 2 and node.input[2]:
        bias = np.asarray(model.constants[node.input[2]], np.float64) - shift
    bias_codes, bias_scales = coded_bias(bias, step, scales)
    codes = layer.coded(values, plan.quant)
    weight_name, bias_name = f"{node.name}/weight", f"{node.name}/bias"
    pairs: list[tuple[str, npt.NDArray[np.generic], npt.NDArray[np.float32]]] = [
        (weight_name, codes, scales),
        (bias_name, bias_codes, bias_scales),
    ]
    found = []
    for name, array, scale in pairs:
        dequantize, constants = dequantized(name, array, scale)
        found.append(dequantize)
        made.extend(constants)
    del node.input[1:]
    node.input.extend([weight_name, bias_name])
    return found


def dequantized(
    name: str, codes: npt.NDArray[np.generic], scales: npt.NDArray[np.float32]
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Return the node that makes a constant from codes, row by row, and what it reads."""
    arrays = {"codes": codes, "scale": scales, "zero": np.zeros(len(scales), codes.dtype)}
    made = [numpy_helper.from_array(a, f"{name}/{part}") for part, a in arrays.items()]
    inputs = [t.name for t in made]
    node = helper.make_node("DequantizeLinear", inputs, [name], f"{name}/dequantize", axis=0)
    return node, made


def drop_unused(graph: onnx.GraphProto) -> None:
    """Take constants away that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
