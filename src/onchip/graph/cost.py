"""How much a network is, as vendors' tables of speeds count it."""

import math

import numpy as np
import onnx

from onchip.graph.read import Model
from onchip.spec import Cost


def cost(model: Model) -> Cost:
    """Count weights, and the operations of layers that multiply by them."""
    nodes = model.proto.graph.node
    used = {t for n in nodes for t in n.input if t in model.constants}
    weights = sum(
        model.constants[t].size
        for t in used
        if np.issubdtype(model.constants[t].dtype, np.floating)
    )
    operations = 2 * sum(products(node, model) for node in nodes)
    return Cost(weights=weights / 1e6, operations=operations / 1e9)


def products(node: onnx.NodeProto, model: Model) -> int:
    """How many multiplications a node does; additions are as many."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    given, weight = (model.shapes.get(t, ()) for t in node.input[:2])
    made = math.prod(model.shapes.get(node.output[0], ()))
    if node.op_type == "Conv":
        return made * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(given) * math.prod(weight[1:])
    return made * (given[-1] if given else 0)
