"""What can be wrong beside the codes: the network, how its end is read, and the labels.

The network that was given is inside the artifact. It is cut again and held against the cut and the
rewritten network that the plan is of; labels are held against what the network sees.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict, replace

from onchip.dataset.samples import Sample
from onchip.detect.program import Program
from onchip.detections import Detections, iou
from onchip.errors import OnchipError
from onchip.graph import read
from onchip.graph.clean import clean
from onchip.graph.layout import laid_out, understood
from onchip.graph.prove import Cut, cut
from onchip.graph.read import Model
from onchip.graph.run import Array, Runner
from onchip.graph.split import split_ends, unstack
from onchip.measure.layers import watching
from onchip.measure.nearness import nearness_db
from onchip.measure.proof import Cause
from onchip.quantize.regions import layers
from onchip.spec import HeadSpec, Layout
from onchip.vision.preprocess import Image

SAME = 1e-3  # of a tensor's largest value: networks further apart are not the same
SEES_SAME = 50.0  # dB, from which two networks see the same
OWN = 1e-2  # the same for one channel, which a rewritten network may have scaled
ALIKE = 1e-6  # relative, of constants
OVERLAP = 0.5
SEEN = 0.4  # the score of detections that tell what a label stands for
ENOUGH = 12  # of them
RIGHT = 0.5  # of them with the label's class: the labels are right
MAPPED = 0.7  # of them explained by another order of the classes

Tensors = Sequence[npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Given:
    """The network as it was given, and for whom it was cut."""

    source: Model
    size: tuple[int, int]
    layout: Layout
    unstacked: bool


def cut_again(given: Given) -> Cut | None:
    """Cut the network that was given as a build does, or None where that cannot be done."""
    try:
        whole = read.prepared(understood(given.source, {}), given.size)
        found = split_ends(cut(clean(whole, check=False).model, original=whole))
        return laid_out(unstack(found) if given.unstacked else found, given.layout)
    except OnchipError:  # such as operations that only its own options explain
        return None


# ---- the network ----


def changed_network(
    again: Cut | None, own: Model, planned: Model, head: HeadSpec, inputs: Tensors
) -> Cause | None:
    """Is the cut network that of the source, and the planned one the same as the cut?

    Args:
        again: the source, cut anew.
        own: the artifact's cut.
        planned: the network that the plan is of.
        head: how its end reads.
        inputs: prepared float inputs.
    """
    found = None if again is None else _changed_constant(again.model, own)
    if again is not None and found is not None and not _same(again, own, head, inputs):
        node, what = found
        text = f"{node}: the network in the artifact is not the one that was given: {what}"
        return Cause("network", text, "input", node)
    first = None if planned.bytes == own.bytes else _strays(own, planned, inputs)
    if first is None:
        return None
    text = f"{first}: from here on the network that the plan is of computes something else than "
    text += f"the one that it was made of{_lost(planned, first)}"
    return Cause("network", text, "input", first)


def _same(again: Cut, own: Model, head: HeadSpec, inputs: Tensors) -> bool:
    """Whether both see the same: another version may have cut in another form."""
    if len(again.head.tensors) != len(head.tensors):
        return False
    runs = Runner(again.model.bytes), Runner(own.bytes)
    wanted, found = ([run(x) for x in inputs] for run in runs)
    _, _, height, width = own.inputs[0].shape
    return nearness_db(again.head, (width, height), wanted, found, head) >= SEES_SAME


def _changed_constant(given: Model, own: Model) -> tuple[str, str] | None:
    """The first layer whose weights or bias are others, and how."""
    before = {n.name: n for n in given.proto.graph.node}
    for node in own.proto.graph.node:
        old = before.get(node.name)
        if old is None or old.op_type != node.op_type:
            continue
        for place in range(max(len(old.input), len(node.input))):
            a, b = (_constant(m, n.input, place) for m, n in ((given, old), (own, node)))
            if what := _change(a, b, "bias" if place == 2 else "weights"):
                return node.name, what
    return None


def _constant(model: Model, names: Sequence[str], place: int) -> npt.NDArray[np.generic] | None:
    return model.constants.get(names[place]) if place < len(names) else None


def _change(
    given: npt.NDArray[np.generic] | None, own: npt.NDArray[np.generic] | None, name: str
) -> str:
    if given is None and own is None:
        return ""
    if given is None or own is None or given.shape != own.shape:
        return f"its {name} has another shape" if own is not None else f"its {name} is lost"
    if given.dtype.kind != "f" or not given.ndim or not given.size:
        return "" if np.array_equal(given, own) else f"its {name} is another"
    a, b = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (given, own))
    wrong = np.abs(a - b).max(axis=1, initial=0.0) > ALIKE * max(np.abs(a).max(initial=0.0), 1e-30)
    if not wrong.any():
        return ""
    zero = wrong & ~b.any(axis=1)
    some = f"{np.count_nonzero(wrong)} of {len(a)} channels' {name} differ"
    return f"{some}, {np.count_nonzero(zero)} are zero" if zero.any() else some


def _strays(own: Model, planned: Model, inputs: Tensors) -> str | None:
    """The first layer of a rewritten network that does not compute what it did."""
    ends = [o.name for o in own.outputs]
    if not _apart(own, planned, ends, inputs, SAME):
        return None
    made = [(x.node, x.output) for x in layers(planned)]
    known = [(n, t) for n, t in made if _base(t) in own.producers]
    before = watching(own.proto, [_base(t) for _, t in known])
    after = watching(planned.proto, [t for _, t in known])
    strayed = np.zeros(len(known), bool)
    for tensor in inputs:
        for index, (a, b) in enumerate(zip(before.run(tensor), after.run(tensor), strict=True)):
            strayed[index] |= a.ndim == 4 and not _follows(a, b)
    first = next((n for (n, _), wrong in zip(known, strayed, strict=True) if wrong), None)
    return first or planned.producers[ends[0]].name


def _base(tensor: str) -> str:
    """The tensor of which this is a part: a range split numbers the parts."""
    stem, _, number = tensor.rpartition("/")
    return stem if stem and number.isdigit() else tensor


def _apart(a: Model, b: Model, names: list[str], inputs: Tensors, limit: float) -> bool:
    first, second = watching(a.proto, names), watching(b.proto, names)
    return any(
        float(np.abs(x - y).max()) > limit * max(float(np.abs(x).max()), 1e-30)
        for tensor in inputs
        for x, y in zip(first.run(tensor), second.run(tensor), strict=True)
    )


def _follows(before: Array, after: Array) -> bool:
    """Whether each channel is a positive multiple of the one before, or of some, in a part."""
    a, b = (v[0].reshape(v.shape[1], -1).astype(np.float64) for v in (before, after))
    step = max(1, a.shape[1] // 512)
    a, b = a[:, ::step], b[:, ::step]
    powers = np.square(a).sum(axis=1)
    products = b @ a.T  # (after, before)
    factors = products / np.maximum(powers, 1e-30)
    left = np.square(b).sum(axis=1)[:, None] - factors * products
    fits = (left <= OWN**2 * np.square(b).sum(axis=1)[:, None]) & (factors > 0)
    fits |= ~b.any(axis=1)[:, None] & ~a.any(axis=1)[None]
    return bool(np.diagonal(fits).all() if a.shape == b.shape else fits.any(axis=1).all())


def _lost(planned: Model, node: str) -> str:
    """How many of a layer's channels have no weight."""
    maker = next((n for n in planned.proto.graph.node if n.name == node), None)
    held = None if maker is None else _constant(planned, maker.input, 1)
    if held is None or not held.ndim:
        return ""
    none = np.count_nonzero(~np.asarray(held).reshape(len(held), -1).any(axis=1))
    return f"; the weights of {none} of its channels are zero" if none else ""


# ---- how its end is read ----


def readings(again: Cut | None, head: HeadSpec) -> HeadSpec | None:
    """Return the head as the network itself shows it, where the artifact reads it otherwise."""
    if again is None or [(t.name, t.start) for t in again.head.tensors] != [
        (t.name, t.start) for t in head.tensors
    ]:
        return None
    other = replace(again.head, labels=head.labels)
    return other if other != head and other.classes == head.classes else None


def difference(head: HeadSpec, other: HeadSpec) -> str:
    """Say in what two readings differ."""
    ours, theirs = asdict(head), asdict(other)
    found = [
        f"{name} {_short(theirs[name])} instead of {_short(ours[name])}"
        for name in ours
        if name != "tensors" and ours[name] != theirs[name]
    ]
    for name in ("stride", "role", "activated"):
        pair = [[getattr(t, name) for t in h.tensors] for h in (other, head)]
        if pair[0] != pair[1]:
            a, b = (_short(list(dict.fromkeys(v))) for v in pair)
            word = {"activated": "sigmoids applied already", "stride": "strides"}.get(name, name)
            found.append(f"{word} {a} instead of {b}")
    return " and ".join(found)


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_short(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- the labels ----


def wrong_labels(
    program: Program, seen: Iterator[tuple[Image, Sample]], names: Sequence[str]
) -> Cause | None:
    """Are the labels those of other classes than the network's, one for one?

    What the network sees is paired with true boxes by place alone. Where the classes differ, but
    always in the same way, the labels count otherwise. Each pair is held against the order that
    the others give.
    """
    found: list[tuple[int, int]] = []
    for image, sample in seen:
        found += _pairs(program, image, sample)
        if len(found) >= ENOUGH and np.mean([a == b for a, b in found]) >= RIGHT:
            return None  # a few images are enough where the labels are right
    if len(found) < ENOUGH:
        return None
    shifts = {s: np.mean([(a + s) % len(names) == b for a, b in found]) for s in range(len(names))}
    shift = max(shifts, key=lambda s: float(shifts[s]))
    if shifts[shift] >= MAPPED:
        off = shift if shift <= len(names) // 2 else shift - len(names)
        how, share = f"the labels' classes are off by {off:+d}", float(shifts[shift])
    else:
        how, share = "the labels' classes are in another order", _mapped(found)
    if share < MAPPED:
        return None
    example = next((a, b) for a, b in found if a != b)
    return Cause(
        "labels",
        f"{how}: {share:.0%} of the {len(found)} clear detections fit a label so, "
        f"{np.mean([a == b for a, b in found]):.0%} as they are (such as {names[example[0]]}, "
        f"labelled {names[example[1]]})",
        "input",
    )


def _pairs(program: Program, image: Image, sample: Sample) -> Iterator[tuple[int, int]]:
    """(class seen, class labelled) of what lies in one place."""
    found = program(image)
    found = found[found.scores >= SEEN]
    truth: Detections = sample.truth((image.shape[1], image.shape[0]))
    if not len(found) or not len(truth):
        return
    overlaps = iou(found.boxes, truth.boxes)
    for row in range(len(found)):
        column = int(overlaps[row].argmax())
        if overlaps[row, column] >= OVERLAP and overlaps[:, column].argmax() == row:
            yield int(found.classes[row]), int(truth.classes[column])


def _mapped(found: Sequence[tuple[int, int]]) -> float:
    """The share of pairs that follow a mapping which the other pairs give."""
    known: dict[int, dict[int, int]] = {}
    for a, b in found:
        known.setdefault(a, {}).setdefault(b, 0)
        known[a][b] += 1
    right = told = 0
    for a, b in found:
        others: Mapping[int, int] = {k: n - (k == b) for k, n in known[a].items()}
        if sum(others.values()):
            told += 1
            right += max(others, key=lambda k: others[k]) == b
    return right / told if told >= ENOUGH // 2 else 0.0
