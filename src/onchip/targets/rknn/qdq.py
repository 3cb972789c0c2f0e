"""Our plan as the QDQ graph that rknn-toolkit2 takes over scale by scale."""

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import numpy_helper, version_converter

from onchip.errors import UnsupportedError
from onchip.graph.read import Model
from onchip.quantize.emit import emit
from onchip.quantize.plan import QuantPlan
from onchip.quantize.ranges import fit
from onchip.quantize.regions import divide
from onchip.spec import HeadSpec

OPSET = 19  # the newest that the SDK reads
IR = 10


def written(model: Model, head: HeadSpec, plan: QuantPlan) -> onnx.ModelProto:
    """Return a plan as the SDK's compiler wants it.

    It dies where a convolution's output has no scale, so that the ones that the chip does not
    round are written too; and where integers and floats read one dequantized tensor, so that each
    raised layer gets its own. It widens the scale of weights by 128/127 and rounds them again: they
    are written so that this gives back the plan's own codes.
    """
    regions = divide(model, head, plan.quant, plan.floats)
    proto = emit(model, regions, _with_whole_sums(model, head, plan), whole=True)
    _part(proto, {n.name for n in model.proto.graph.node} - regions.integer)
    tensors = {t.name: t for t in proto.graph.initializer}
    for name, codes in tensors.items():
        if name.endswith("/weight/codes"):
            scale = tensors[f"{name.removesuffix('codes')}scale"]
            values = numpy_helper.to_array(codes).astype(np.float64)
            wide = np.clip(np.rint(values * 128 / 127), -128, 127).astype(np.int8)
            steps = numpy_helper.to_array(scale).astype(np.float64) * 127 / 128
            codes.CopyFrom(numpy_helper.from_array(wide, name))
            scale.CopyFrom(numpy_helper.from_array(steps.astype(np.float32), scale.name))
    return lowered(proto)


def _with_whole_sums(model: Model, head: HeadSpec, plan: QuantPlan) -> QuantPlan:
    """Give outputs beside the head's (sums of scores, for a demo) codes for all of 0 to 1.

    The demo holds them against any threshold that its user likes, onchip does not read them.
    """
    sums = {o.name for o in model.outputs} - set(head.outputs)
    sums |= {model.producers[name].input[0] for name in sums}  # before it is clipped
    scale, zero = fit(0.0, 1.0, plan.quant)
    tensors = tuple(
        replace(t, scale=scale, zero=zero, group=t.name) if t.name in sums else t
        for t in plan.tensors
    )
    return replace(plan, tensors=tensors)


def _part(proto: onnx.ModelProto, floats: set[str]) -> None:
    """Dequantize a tensor once more for every float node that reads it."""
    sources = {n.output[0]: n for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if node.name in floats and name in sources:
                again = onnx.NodeProto()
                again.CopyFrom(sources[name])
                again.name, again.output[0] = f"{node.name}/{index}/again", f"{node.name}/{index}"
                node.input[index] = again.output[0]
                nodes.append(again)
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def lowered(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph at an opset and format that the SDK reads.

    Raises:
        UnsupportedError: an operation has no older form.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    opset = max(o.version for o in made.opset_import if o.domain in ("", "ai.onnx"))
    if opset > OPSET:
        try:
            made = version_converter.convert_version(made, OPSET)
        except Exception as error:  # the converter raises errors of its own kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnsupportedError(
                f"the model is at ONNX opset {opset}; the SDK reads up to {OPSET}, and it cannot "
                f"be lowered: {reason}",
                f"export it again with opset {OPSET} or less",
            ) from error
    made.ir_version = min(made.ir_version, IR)
    return made
