"""Name what is wrong in a plan: find the tensors that lose more than they must, and repair them.

What a tensor must lose follows from its bits; what it loses beyond that is a suspect. Each of the
worst is then run without its error, and what that wins on the detections decides the order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.measure.layers import LayerError
from onchip.measure.parity import Noise
from onchip.quantize.agreement import agreement
from onchip.quantize.emit import emit
from onchip.quantize.plan import QuantPlan
from onchip.quantize.regions import divide
from onchip.spec import HeadSpec

SUSPECTS = 8  # tried by experiment
AVOIDABLE = 6.0  # dB beyond what the bits cost, from which a range or weight is called wrong
SHORT = 0.005  # of the values beyond the codes, from which a range is called too short
WIDE = 3.0  # times as wide as the values: too coarse
MOVED = 1.5  # steps of mean error
WORTH = 0.5  # dB that a repair must win to be called a fault

Tensors = Sequence[npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Fault:
    """A layer that loses detections, and why.

    `win` is the agreement with float that its repair wins, `win_db` how much nearer the head's
    tensors come: the finer measure, and the one that decides the order.
    """

    node: str
    tensor: str
    code: str
    message: str
    win: float
    win_db: float


@dataclass(frozen=True)
class Faults:
    """What was found: the plan's own agreement, and every suspect, the most harmful first."""

    agreement: float
    found: tuple[Fault, ...]


def find_faults(
    model: Model,
    head: HeadSpec,
    plan: QuantPlan,
    errors: Sequence[LayerError],
    inputs: Tensors,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Faults:
    """Repair the worst suspects one by one and see what each wins.

    Args:
        model: the cut float graph.
        head: its end.
        plan: the decision to look into.
        errors: what `layer_errors` found on the same inputs.
        inputs: prepared float inputs.
        progress: called with the number of suspects done, and of all.
    """
    quantized = emit(model, divide(model, head, plan.quant, plan.floats), plan)
    run = Runner(model.bytes)
    wanted = [run(x) for x in inputs]
    _, _, height, width = model.inputs[0].shape

    def measure(proto: onnx.ModelProto) -> npt.NDArray[np.float64]:
        trial = Runner(proto.SerializeToString())
        found = [trial(x) for x in inputs]
        noise = Noise(head)
        for first, second in zip(wanted, found, strict=True):
            noise.add(first, second)
        alike = agreement(head, (width, height), wanted, found)
        return np.asarray([alike, float(np.mean(list(noise.sqnr_db().values())))])

    base = measure(quantized)
    suspects = _suspects(errors)
    found = []
    for done, error in enumerate(suspects):
        progress(done, len(suspects))
        win, near = (measure(_repaired(quantized, model, error)) - base).tolist()
        why = _why(error, head)
        found.append(Fault(error.node, error.tensor, *why, round(win, 4), round(near, 2)))
    progress(len(suspects), len(suspects))
    ranked = sorted(zip(found, suspects, strict=True), key=lambda p: _harm(*p), reverse=True)
    return Faults(float(base[0]), tuple(fault for fault, _ in ranked))


def _harm(fault: Fault, error: LayerError) -> tuple[bool, float]:
    """What a repair wins; among those that win about as little, what loses most beyond need.

    What is wrong comes before what its bits cost: it can be mended for nothing.
    """
    wrong = fault.code != "bits" and fault.win_db >= WORTH
    return wrong, fault.win_db + 10 * max(fault.win, 0.0) + error.avoidable_db / 100


def _suspects(errors: Sequence[LayerError]) -> list[LayerError]:
    """Return the tensors that lose most, beyond need and by themselves."""
    beyond = sorted(errors, key=lambda e: -_suspicion(e))[: SUSPECTS - 2]
    alone = [e for e in sorted(errors, key=lambda e: e.own.sqnr_db) if e not in beyond]
    return [*beyond, *alone[:2]]


def _suspicion(error: LayerError) -> float:
    return error.avoidable_db + 100 * error.saturated + 10 * bool(error.dead)


def _why(error: LayerError, head: HeadSpec) -> tuple[str, str]:
    """Return a code and a line for what is wrong with a tensor."""
    codes = f"codes from {error.code_low:.4g} to {error.code_high:.4g}"
    values = f"values from {error.low:.4g} to {error.high:.4g}"
    wide = (error.code_high - error.code_low) / max(error.high - error.low, 1e-12)
    gap = error.possible_db - error.own.sqnr_db
    if error.weight_possible_db - error.weight_db > AVOIDABLE:
        lost = f"; {len(error.dead)} dead channels" if error.dead else ""
        return "weights", (
            f"the weights' scale does not fit: their worst channel keeps {error.weight_db:.1f} dB "
            f"where {error.weight_possible_db:.1f} are possible{lost}"
        )
    if gap > AVOIDABLE and error.saturated > SHORT:
        text = f"the range is too short: {codes}, {values}; {error.saturated:.1%} are cut off"
        return ("score_ceiling" if _is_score(error.tensor, head) else "saturated"), text
    if gap > AVOIDABLE and wide > WIDE:
        return "coarse", f"the scale is too coarse: {codes}, {values}"
    if gap > AVOIDABLE and error.shift > MOVED:
        return "bias", f"the bias is off: a channel's mean moves by {error.shift:.1f} steps"
    if error.dead:
        return "dead", f"{len(error.dead)} channels are dead: they vary, but never leave one code"
    return "bits", (
        f"{error.own.sqnr_db:.1f} dB are what its bits give; raised, they would not be lost"
    )


def _is_score(tensor: str, head: HeadSpec) -> bool:
    return any(t.name == tensor and t.role in ("class", "object") for t in head.tensors)


def _repaired(quantized: onnx.ModelProto, model: Model, error: LayerError) -> onnx.ModelProto:
    """Return the quantized graph with one layer's own error taken away."""
    proto = onnx.ModelProto()
    proto.CopyFrom(quantized)
    graph = proto.graph
    names: dict[str, str] = {}
    for tensor in _own_tensors(error, model):
        names[tensor] = f"{tensor}/float"
    made = {o for n in graph.node for o in n.output}
    names = {k: v for k, v in names.items() if v in made}
    gone = {f"{t}/{what}" for t in names for what in ("quantize", "dequantize")}
    constants = {t.name: t for t in model.proto.graph.initializer}
    have = {t.name for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.name in gone:
            continue
        if node.name == error.node and f"{node.name}/weight" in node.input:
            original = next(n for n in model.proto.graph.node if n.name == node.name)
            del node.input[1:]
            node.input.extend(original.input[1:])
            graph.initializer.extend(
                constants[n] for n in original.input[1:] if n in constants and n not in have
            )
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    _rename_outputs(graph, names)
    return proto


def _own_tensors(error: LayerError, model: Model) -> tuple[str, ...]:
    """The tensor, and the ones that only move its values: they carry its scale on."""
    found = [error.tensor]
    for name in found:
        for node in model.consumers.get(name, []):
            if node.op_type in ("Split", "Slice", "Reshape", "Transpose", "Resize", "MaxPool"):
                found.extend(o for o in node.output if o not in found)
    return tuple(found)


def _rename_outputs(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """An output that is not rounded any more is made by the layer itself."""
    outputs = {o.name for o in graph.output} & names.keys()
    for node in graph.node:
        for index, name in enumerate(node.output):
            for output in outputs:
                if name == names[output]:
                    node.output[index] = output
        for index, name in enumerate(node.input):
            for output in outputs:
                if name == names[output]:
                    node.input[index] = output
