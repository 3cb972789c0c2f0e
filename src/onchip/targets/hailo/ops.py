"""Which ONNX operations Hailo's compiler takes: `ops.toml`, and the limits that a graph shows.

Nothing here was tried on the compiler. An operation of which nothing public is known is called
unknown, never supported.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec
import onnx
from msgspec import Struct

from onchip.graph.read import Model
from onchip.spec import Verdict

CUT = "cut the network before it: --end-nodes"


class Operation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one operation: whether the compiler has it, its limit, cure and source.

    `chips` are those for which that holds, where others have it without limits.
    """

    has: Literal["yes", "limits", "no"]
    source: str
    limit: str = ""
    cure: str = ""
    chips: tuple[str, ...] = ()

    def on(self, chip: str) -> str:
        """Whether a chip has it: "yes", "limits" or "no"."""
        return self.has if not self.chips or chip in self.chips else "yes"


class Unsupported(Struct, frozen=True, kw_only=True):
    """One operation that the compiler has not, or of which that is not known."""

    op: str
    node: str
    why: str
    cure: str
    known: bool = True

    def describe(self) -> str:
        """One line for people."""
        return f"{self.node} ({self.op}): {self.why}; {self.cure}"


@cache
def operations() -> Mapping[str, Operation]:
    """Return what is known, by ONNX operation."""
    data = files("onchip.targets.hailo").joinpath("ops.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, Operation])


def unsupported(model: Model, chip: str) -> tuple[Unsupported, ...]:
    """Return the nodes of a cut graph that the compiler will refuse, or that nobody knows of.

    Args:
        model: the cut graph.
        chip: "hailo8", "hailo8l", "hailo10h", ...
    """
    found = []
    for node in model.proto.graph.node:
        if not any(t and t not in model.constants for t in node.input):
            continue  # a constant
        known = operations().get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if known is None:
            why, cure = "not known whether Hailo's compiler has it", "try it, or " + CUT
        elif known.on(chip) == "no":
            why, cure = "Hailo's compiler has it not", known.cure
        elif past := _past(node, model):
            why, cure = f"Hailo's compiler refuses those {past}", known.cure
        else:
            continue
        found.append(
            Unsupported(
                op=node.op_type, node=node.name, why=why, cure=cure or CUT, known=known is not None
            )
        )
    return tuple(found)


def limited(model: Model, chip: str) -> tuple[Verdict, ...]:
    """Say within what limits the compiler has operations of a graph, where that does not show."""
    telling = ("Reshape", "Transpose", "MatMul", "Softmax", "LayerNormalization", "Gather", "LSTM")
    counts = Counter(n.op_type for n in model.proto.graph.node)
    return tuple(
        Verdict(
            code="op_limited",
            message=f"{op} (nodes: {counts[op]}): {operations()[op].limit}",
        )
        for op in telling
        if counts[op] and operations()[op].on(chip) == "limits"
    )


def _past(node: onnx.NodeProto, model: Model) -> str:
    """What is past an operation's limit, in words; empty where nothing shows that."""
    check = CHECKS.get(node.op_type)
    return check(node, model) if check else ""


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _axes(node: onnx.NodeProto, model: Model) -> tuple[int, ...]:
    """The axes of a reduction or slice, from its attribute or its input, counted from the front."""
    place = 3 if node.op_type == "Slice" else 1
    given = [tuple(a.ints) for a in node.attribute if a.name == "axes"]
    if not given and len(node.input) > place and node.input[place] in model.constants:
        given = [tuple(int(v) for v in model.constants[node.input[place]].ravel())]
    rank = len(model.shapes.get(node.input[0], ()))
    return tuple(a + rank if a < 0 else a for a in (given[0] if given else ()))


def _batched(node: onnx.NodeProto, model: Model) -> str:
    rank = len(model.shapes.get(node.output[0], ()))
    axis = _attribute(node, "axis", 1)
    return "over the batch" if (axis + rank if axis < 0 else axis) == 0 else ""


def _sliced(node: onnx.NodeProto, model: Model) -> str:
    return "of the batch" if 0 in _axes(node, model) else ""


def _reduced(node: onnx.NodeProto, model: Model) -> str:
    axes, rank = _axes(node, model), len(model.shapes.get(node.input[0], ()))
    if not _attribute(node, "keepdims", 1):
        return "without keepdims"
    if axes and rank == 4 and axes != (1,):
        return f"over the axes {', '.join(map(str, axes))}"
    return ""


def _resized(node: onnx.NodeProto, model: Model) -> str:
    mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
    return f"of mode {mode}" if mode not in ("nearest", "linear") else ""


def _directed(node: onnx.NodeProto, model: Model) -> str:
    ways = [a.s.decode() for a in node.attribute if a.name == "direction"]
    return "of two directions" if "bidirectional" in ways else ""


CHECKS: Mapping[str, Callable[[onnx.NodeProto, Model], str]] = {
    "Concat": _batched,
    "LSTM": _directed,
    "ReduceMax": _reduced,
    "ReduceSum": _reduced,
    "Resize": _resized,
    "Slice": _sliced,
}
