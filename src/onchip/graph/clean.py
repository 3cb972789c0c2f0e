"""Fold constants, drop what does nothing, fuse batch norms (ONNX Runtime) and Focus; checked.

ONNX Runtime's basic optimizations keep to standard operators and keep node names, and it is a
dependency already; see docs/decisions/0003-clean-with-onnxruntime.md.
"""

import heapq
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from onchip.errors import ToolError, UnsupportedError
from onchip.graph.focus import merge_focus
from onchip.graph.read import Model
from onchip.graph.run import Runner, translated

MAX_VALUES = 1 << 30  # of one tensor: 4 GiB of float32
# it makes Focus an operator that few chips and only newer files know; `merge_focus` knows it
_UNWANTED = ["SliceConcatToSpaceToDepthFusion"]
TOLERANCE = 1e-3  # of the largest output value; float32 sums in another order


@dataclass(frozen=True)
class Cleaned:
    """The simpler model, and how far its outputs are from the original's (nan: not checked)."""

    model: Model
    difference: float


def clean(model: Model, *, check: bool = True) -> Cleaned:
    """Return the same network, simpler.

    Args:
        model: the network as it was read.
        check: run both and compare; False where a later proof against the original does it.

    Raises:
        UnsupportedError: ONNX Runtime does not know the graph, or it would not fit into memory.
        ToolError: the simpler graph computes something else.
    """
    _refuse_huge(model)
    proto = _optimize(model.bytes)
    wanted = {o.domain: o.version for o in model.proto.opset_import}
    used = {n.domain for n in proto.graph.node} | {""}
    del proto.opset_import[:]
    proto.opset_import.extend(
        onnx.helper.make_opsetid(d, v) for d, v in wanted.items() if d in used or d == "ai.onnx"
    )
    _name_nodes(proto)
    in_order(proto, model.proto)
    cleaned = merge_focus(model.changed(proto))
    return Cleaned(cleaned, _compare(model, cleaned) if check else float("nan"))


def _refuse_huge(model: Model) -> None:
    """Refuse what would take all memory before anything is folded."""
    for name, shape in model.shapes.items():
        if math.prod(shape) > MAX_VALUES:
            raise UnsupportedError(
                f"the tensor {name} is {list(shape)}: {math.prod(shape)} values",
                f"onchip takes up to {MAX_VALUES} in one tensor; export with a smaller input",
            )


def _optimize(data: bytes) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clean.onnx"
        options.optimized_model_filepath = str(path)
        with translated(
            "ONNX Runtime does not take the model",
            "check the export: python -m onnxruntime.tools.check_onnx_model_mobile_usability",
            kind=UnsupportedError,
        ):
            ort.InferenceSession(
                data,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
                disabled_optimizers=_UNWANTED,
            )
            return onnx.load(path)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give a name to nodes that have none, so that every node can be pointed at."""
    taken = {n.name for n in proto.graph.node}
    for node in proto.graph.node:
        if not node.name:
            name = f"{node.op_type}_{node.output[0]}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def in_order(proto: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """Put the nodes back into the file's own order: vendors' compilers number layers by it.

    A node that is new comes as soon as it can.
    """
    places = {n.name: i for i, n in enumerate(before.graph.node)}
    nodes = list(proto.graph.node)
    makers = {o: i for i, n in enumerate(nodes) for o in n.output}
    waiting = [{makers[t] for t in n.input if t in makers} for n in nodes]
    readers: dict[int, list[int]] = {}
    for index, before_it in enumerate(waiting):
        for maker in before_it:
            readers.setdefault(maker, []).append(index)
    heap = [(places.get(nodes[i].name, -1), i) for i, w in enumerate(waiting) if not w]
    heapq.heapify(heap)
    ordered = []
    while heap:
        _, index = heapq.heappop(heap)
        ordered.append(nodes[index])
        for reader in readers.get(index, ()):
            waiting[reader].discard(index)
            if not waiting[reader]:
                heapq.heappush(heap, (places.get(nodes[reader].name, -1), reader))
    del proto.graph.node[:]
    proto.graph.node.extend(ordered)


@np.errstate(all="ignore")  # what is not finite is judged by the proof
def _compare(before: Model, after: Model) -> float:
    tensor = before.noise(0)
    first, second = Runner(before.bytes).run(tensor), Runner(after.bytes).run(tensor)
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            raise ToolError("cleaning the graph changed the shape of an output")
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / (np.abs(a).max() + 1e-9)))
    # selections (top-k, NMS) may order equal scores differently; they are proven at the cut
    if worst > TOLERANCE and not _selects(before):
        raise ToolError(f"cleaning the graph changed its outputs by {worst:.2%}")
    return worst


def _selects(model: Model) -> bool:
    return any(n.op_type in ("TopK", "NonMaxSuppression") for n in model.proto.graph.node)
