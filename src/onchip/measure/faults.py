"""Name what is wrong in a plan: suspect what loses more than it must, and try the repair.

Each suspect comes with a plan of the same bits that would be right. The plan is run so, and what
that wins decides: how much nearer scores and boxes come to the float network's, and how many more
detections agree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.measure.layers import LayerError
from onchip.measure.nearness import nearness_db
from onchip.measure.suspects import (
    CERTAIN,
    CLIPPED,
    RANGES,
    Case,
    Suspect,
    suspects,
    swaps,
    together,
)
from onchip.quantize.agreement import agreement
from onchip.quantize.emit import emit
from onchip.quantize.observe import Maker
from onchip.quantize.optimize import KEPT, Work, optimize
from onchip.quantize.plan import QuantPlan
from onchip.quantize.precision import choose_precision
from onchip.quantize.probes import Probes
from onchip.quantize.recipe import RECIPES
from onchip.quantize.regions import divide
from onchip.spec import HeadSpec, InputSpec

MOST = 16  # suspects tried by experiment on a few images
SCREEN = 2  # images for that
TRIED = 4  # of them, those that win most there, on all images
ODD = 2  # and of the rest, those that are not clipped: a few images may not show what they win
ALONE = 2  # of the layers that lose most by themselves, though nothing is wrong
WORTH = 0.5  # dB that a repair must win to be called a fault; twice that where agreement falls
WORTH_SEEN = 0.03  # or of agreement
ON_PURPOSE = 3.0  # dB that no more clipping must win where no detections are won
CLEAR = 10.0  # dB of suspicion: with less, only what wins detections is a fault; a plan may clip
NOISE = 0.01  # of agreement, that chance wins or loses
ALL = 0.55  # of what a wider repair wins: what is in one place is named before what is in many
SUSPICIOUS = 3  # ranges that fit badly, from which all are made again
FEW = 16  # images, with fewer of which a plan is suspected anyway
RAISED = 3  # layers that planning again may raise, as a build does
AGAIN = 2.0  # dB that planning again must win

Tensors = Sequence[npt.NDArray[np.generic]]


class Near(NamedTuple):
    """How near a graph comes to float: agreement of detections, and SQNR of what is seen, dB."""

    agreement: float
    db: float


@dataclass(frozen=True)
class Fault:
    """What loses detections, and why.

    `node` and `tensor` are empty where it is not in one place. `win` is the agreement with float
    that its repair wins, `win_db` how much nearer scores and boxes come: the finer measure, and the
    one that decides the order.
    """

    node: str
    tensor: str
    code: str
    message: str
    win: float
    win_db: float

    @property
    def wrong(self) -> bool:
        """Whether something is wrong, beyond what the bits cost."""
        return self.code != "bits"

    def describe(self) -> str:
        """One line for people."""
        won = f"boxes and scores {self.win_db:+.1f} dB, agreement {self.win:+.1%}"
        where = f"{self.node}: " if self.node else ""
        return f"{where}{self.message} (repaired: {won})"


@dataclass(frozen=True)
class Trial:
    """Runs plans on a few images and holds them against the float network."""

    model: Model
    head: HeadSpec
    inputs: Tensors
    wanted: Sequence[Mapping[str, npt.NDArray[np.float32]]]

    @classmethod
    def begin(cls, model: Model, head: HeadSpec, inputs: Tensors) -> "Trial":
        """Run the float network."""
        run = Runner(model.bytes)
        return cls(model, head, inputs, [run(x) for x in inputs])

    def few(self) -> "Trial":
        """The same on fewer images."""
        return replace(self, inputs=self.inputs[:SCREEN], wanted=self.wanted[:SCREEN])

    def plan(self, plan: QuantPlan) -> Near:
        """How near a plan comes."""
        return self.graph(self.emitted(plan))

    def emitted(self, plan: QuantPlan) -> onnx.ModelProto:
        """A plan as a graph."""
        regions = divide(self.model, self.head, plan.quant, plan.floats)
        return emit(self.model, regions, plan)

    def graph(self, proto: onnx.ModelProto) -> Near:
        """How near a graph comes."""
        run = Runner(proto.SerializeToString())
        found = [run(x) for x in self.inputs]
        _, _, height, width = self.model.inputs[0].shape
        size = (width, height)
        alike = agreement(self.head, size, self.wanted, found)
        return Near(alike, nearness_db(self.head, size, self.wanted, found))


def find_faults(
    trial: Trial,
    own: Model,
    spec: InputSpec,
    plan: QuantPlan,
    errors: Sequence[LayerError],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Fault, ...]:
    """Repair the worst suspects one by one; return what that mends, the most harmful first.

    Args:
        trial: the float network that the plan is of, and prepared inputs.
        own: the network before it was rewritten for the plan.
        spec: what it expects of its pixels.
        plan: the decision to look into.
        errors: what `layer_errors` found on the same inputs.
        progress: called with the number of suspects done, and of all.
    """
    model, head, inputs = trial.model, trial.head, trial.inputs
    base = trial.plan(plan)
    case = Case(model, head, plan, errors, inputs)
    doubted = suspects(case)
    first = [s for place, s in enumerate(doubted) if place < MOST or not s.node]
    others = [s for s in doubted[MOST:] if s.node]
    worst = halved(trial.few().plan, plan, others)
    tried = _screened(trial, plan, [*swaps(case, first), *first, *worst])
    alone = sorted(errors, key=lambda e: e.own.sqnr_db)[:ALONE]
    total = len(tried) + len(alone) + 1
    found = []
    for done, suspect in enumerate(tried):
        progress(done, total)
        assert suspect.repaired is not None
        fault = _fault(suspect, base, trial.plan(suspect.repaired))
        found += [fault] if _worth(fault, suspect.suspicion) else []
    progress(len(tried), total)
    clear = sum(s.suspicion >= CLEAR for s in doubted)
    if clear >= SUSPICIOUS or plan.images < FEW:
        other, again = planned_again(trial, own, spec, plan)
        near = replace(trial, model=other).plan(again)
        found += _stale(plan, clear, base, near)
    quantized = trial.emitted(plan)
    for done, error in enumerate(alone):
        progress(len(tried) + 1 + done, total)
        fault = _fault(_bits(error), base, trial.graph(_in_float(quantized, model, error)))
        found += [fault] if _worth(fault, CLEAR) else []
    progress(total, total)
    return ranked(found)


def halved(
    near: Callable[[QuantPlan], Near], plan: QuantPlan, doubted: Sequence[Suspect]
) -> Sequence[Suspect]:
    """The range whose repair wins most, or none: by repairing ever fewer of them together.

    A plan that clips on purpose has more such suspects than can be tried one by one. `near` tells
    how near a plan comes to float; it is asked twice for each halving.
    """
    part = [s for s in doubted if s.code in RANGES and s.node]

    def won(half: Sequence[Suspect]) -> float:
        return _harm(_fault(half[0], Near(0, 0), near(together(plan, half))))

    while len(part) > 1:
        part = max(part[::2], part[1::2], key=won)
    return part


def _screened(trial: Trial, plan: QuantPlan, doubted: Sequence[Suspect]) -> list[Suspect]:
    """Those whose repair wins most on a few images, and what no plan does on purpose."""
    if len(doubted) <= TRIED:
        return list(doubted)
    few = trial.few()
    base = few.plan(plan)
    wins = {s: _harm(_fault(s, base, few.plan(s.repaired or plan))) for s in doubted}
    order = sorted(doubted, key=lambda s: (s.suspicion < CERTAIN, -wins[s]))
    odd = [s for s in order[TRIED:] if s.code not in CLIPPED]
    return [*order[:TRIED], *odd[:ODD]]


def _fault(suspect: Suspect, base: Near, near: Near) -> Fault:
    win, win_db = round(near.agreement - base.agreement, 4), round(near.db - base.db, 2)
    return Fault(suspect.node, suspect.tensor, suspect.code, suspect.message, win, win_db)


def _worth(fault: Fault, suspicion: float) -> bool:
    """Whether a repair wins enough to be told."""
    if suspicion >= CERTAIN or (fault.win >= WORTH_SEEN and fault.win_db >= 0):
        return True  # what contradicts itself is wrong, even where it costs little
    if fault.code in CLIPPED and fault.win < NOISE:
        worth = ON_PURPOSE
    else:
        worth = WORTH if fault.win >= 0 else 2 * WORTH
    return suspicion >= CLEAR and fault.win_db >= worth and fault.win >= -NOISE


def _harm(fault: Fault) -> float:
    return fault.win_db + 10 * max(fault.win, 0.0)


def ranked(found: Sequence[Fault]) -> tuple[Fault, ...]:
    """The most harmful first; what is wrong before what the bits cost, for it is mended for free.

    Of two repairs that win about as much the narrower is the right one: the wider mends it too. Of
    two as narrow it is the one of what no plan does on purpose.
    Planning again moves what is near in boxes and in scores by itself: agreement may tell alone.
    """
    order = sorted(found, key=lambda f: (f.wrong, _harm(f)), reverse=True)
    if not order:
        return ()
    most = _harm(order[0])
    alike = [f for f in order if f.wrong == order[0].wrong]
    seen = max(order[0].win, WORTH_SEEN)
    as_good = [f for f in alike if _harm(f) >= min(ALL * most, most) or f.win >= ALL * seen]
    first = min(as_good, key=lambda f: (_width(f), f.code in CLIPPED))
    return (first, *(f for f in order if f is not first))


def _width(fault: Fault) -> int:
    """How much of a plan a repair changes: a tensor or two, a role of the head, all of it."""
    if fault.code in ("stale_ranges", "few_images"):
        return 2
    return 0 if fault.node else 1


def planned_again(
    trial: Trial, own: Model, spec: InputSpec, plan: QuantPlan
) -> tuple[Model, QuantPlan]:
    """Return the plan that a build would make now of these inputs, and the network that it is of.

    What the user raised stays raised.
    """

    def maker(tensor: npt.NDArray[np.generic]) -> Maker:
        return lambda: tensor

    layers = {n.name for n in own.proto.graph.node}
    kept = tuple(x.node for x in plan.layers if x.reason == KEPT and x.node in layers)
    work = Work(
        model=own,
        head=trial.head,
        spec=spec,
        quant=plan.quant,
        images=[maker(x) for x in trial.inputs],
        used=lambda: len(trial.inputs),
        probes=Probes(trial.head, trial.inputs, trial.wanted),
        floats=tuple(n for n in kept if n in plan.floats),
        wide=tuple(n for n in plan.wide if n in layers),
    )
    most = RAISED if plan.quant.raised else 0
    made = optimize(work, RECIPES["fast"], lambda search: choose_precision(search, most))
    return made.model, made.plan


def _stale(plan: QuantPlan, doubted: int, base: Near, again: Near) -> list[Fault]:
    """Planning again as a repair, where it wins enough."""
    won, win = again.db - base.db, round(again.agreement - base.agreement, 4)
    if won < AGAIN or win < NOISE:  # scores may be bought with boxes on purpose, and the other way
        return []
    code = "few_images" if plan.images < FEW else "stale_ranges"
    why = (
        f"too few calibration images ({plan.images})"
        if plan.images < FEW
        else "the plan is of other images, or of another training of the network"
    )
    message = f"{why}: {doubted} ranges and scales do not fit what these images give"
    return [Fault("", "", code, message, win, round(won, 2))]


# ---- what only more bits would mend ----


def _bits(error: LayerError) -> Suspect:
    message = f"{error.own.sqnr_db:.1f} dB are what its bits give; raised, they would not be lost"
    if error.dead:
        message += f" ({len(error.dead)} channels never leave one code)"
    return Suspect(error.node, error.tensor, "bits", message, 0.0, None)


def _in_float(quantized: onnx.ModelProto, model: Model, error: LayerError) -> onnx.ModelProto:
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
