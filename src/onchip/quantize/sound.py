"""Say what is wrong with the numbers of a network or its photos, before they become a plan.

Weights can be damaged, dead, or so small that no scale says them; activations too; and photos can
show nothing. Each is one line for the user that says what was done about it.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onchip.errors import InputError
from onchip.graph.read import Model
from onchip.graph.run import Array
from onchip.quantize.plan import QuantPlan
from onchip.quantize.ranges import NOTHING
from onchip.quantize.regions import WEIGHTED, Layer, Regions
from onchip.quantize.stats import Stats
from onchip.quantize.weights import FINEST
from onchip.spec import Verdict

NUMBERS = WEIGHTED | {"MatMul", "BatchNormalization", "LayerNormalization", "PRelu", "Mul", "Add"}
CODES = 256
ENOUGH = 2 * CODES  # weights of a channel from which on it tells whether they are codes
PLAIN = 2.0  # a photo whose pixels deviate by less shows nothing; black frames have some noise
HALF = 65504.0  # the largest float16
DAMAGED = (
    "the training diverged, float16 was too small for it, or the file is damaged: export again"
)

Image = npt.NDArray[np.uint8]


def check_weights(model: Model) -> None:
    """Refuse a network with numbers in its layers that are none.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    for node in model.proto.graph.node:
        for name in node.input:
            values = model.constants.get(name)
            if values is None or values.dtype.kind != "f":
                continue
            # an attention's mask may be infinite, but nothing may be NaN
            wrong = np.isnan(values) if node.op_type not in NUMBERS else ~np.isfinite(values)
            if wrong.any():
                kind = "NaN" if np.isnan(values).any() else "infinite"
                count = f"{int(wrong.sum())} of {values.size}" if values.size > 1 else "the one"
                text = f"{count} weights of {node.name or node.op_type} are {kind} ({name})"
                raise InputError(text.replace("the one weights", "the weight"), DAMAGED)


def weights_said(layers: Sequence[Layer], model: Model) -> tuple[Verdict, ...]:
    """Name layers whose weights are too small for codes, or codes already."""
    rows = {x.node: _rows(x, model) for x in layers}
    reach = {node: float(np.abs(values).max(initial=0)) for node, values in rows.items()}
    found = []
    if faint := {node: most for node, most in reach.items() if 0 < most < FINEST / 2}:
        text = (
            f"weights of {_names(faint)} reach no further than {max(faint.values()):.1e}: "
            "they were taken as zero"
        )
        found.append(Verdict(code="tiny_weights", message=text, level="warning"))
    telling = [_are_codes(r) for r in rows.values() if r.shape[1] >= ENOUGH]
    if telling and all(telling):
        text = (
            "the weights are codes of 8 bits already, in float: what was lost by that is in the "
            "float network, and no figure here shows it"
        )
        found.append(Verdict(code="weights_coded", message=text))
    return tuple(found)


def _rows(layer: Layer, model: Model) -> npt.NDArray[np.float32]:
    """The weights of each output channel, `(out, k)`, in any order."""
    values = np.asarray(model.constants[model.producers[layer.raw].input[1]], np.float32)
    return values.reshape(len(values), -1)


def _are_codes(rows: npt.NDArray[np.float32]) -> bool:
    """Whether each channel has no more different weights than there are codes."""
    ordered = np.sort(rows, axis=1)
    return bool(((np.diff(ordered, axis=1) != 0).sum(axis=1) < CODES).all())


def first_unsound(found: Mapping[str, Array]) -> str:
    """Return the name of the first tensor that has NaN or infinite values, or nothing."""
    return next((name for name, values in found.items() if not _finite(values)), "")


def _finite(values: Array) -> bool:
    # a sum is much quicker than a look at each; it can also overflow, and then each is looked at
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def activations_said(regions: Regions, seen: Mapping[str, Stats]) -> tuple[Verdict, ...]:
    """Name layers whose results never change, or are too small for a scale."""
    made = {x.node: seen[x.raw] for x in regions.layers if x.raw in seen}
    still = {node: s.low == s.high for node, s in made.items()}
    reach = {n: max(float(-s.low.min()), float(s.high.max())) for n, s in made.items()}
    found = []
    if dumb := [node for node, same in still.items() if same.all()]:
        text = (
            f"{_names(dumb)} {'gives' if len(dumb) == 1 else 'give'} the same for every place of "
            "every calibration image: what is behind sees nothing of them"
        )
        found.append(Verdict(code="still_layers", message=text, level="warning"))
    if dead := {n: int(same.sum()) for n, same in still.items() if same.any() and not same.all()}:
        text = (
            f"{_counted(dead, 'channel')} of {_names(dead)} without any change on the calibration "
            "images: training has shut them, or the images do not show what they look for"
        )
        found.append(Verdict(code="dead_channels", message=text))
    if small := [n for n, most in reach.items() if 0 < most < NOTHING]:
        text = f"values of {_names(small)} stay below {NOTHING:.0e}: they were taken as zero"
        found.append(Verdict(code="tiny_values", message=text, level="warning"))
    return tuple(found)


def half_said(plan: QuantPlan, regions: Regions, seen: Mapping[str, Stats]) -> tuple[Verdict, ...]:
    """Name layers that are in float16 and whose values do not fit it."""
    half = {x.node for x in plan.layers if x.precision == "float16"}
    large = [
        x.node
        for x in regions.layers
        if x.node in half and x.raw in seen and float(np.abs(_ends(seen[x.raw])).max()) > HALF
    ]
    if not large:
        return ()
    text = f"{_names(large)} reach past {HALF:.0f}, where float16 ends: they overflow on the chip"
    return (Verdict(code="past_float16", message=text, level="warning"),)


def _ends(stats: Stats) -> npt.NDArray[np.float32]:
    return np.asarray([stats.low.min(), stats.high.max()])


def check_plan(plan: QuantPlan) -> None:
    """Refuse a plan with a number that no chip can use.

    Raises:
        InputError: a scale is none that float32 can hold, or a bias has no value.
    """
    for tensor in plan.tensors:
        if not (_usable([tensor.scale]) and np.isfinite(tensor.sqnr_db)):
            raise InputError(f"the scale of {tensor.name} comes to {tensor.scale:g}", DAMAGED)
    for layer in plan.layers:
        if not _usable(layer.scales):
            raise InputError(f"a weight's scale of {layer.node} is none of float32", DAMAGED)
        if not np.isfinite(np.asarray(layer.bias_shift, np.float32)).all():
            raise InputError(f"the bias of {layer.node} is NaN or infinite", DAMAGED)
    for won in plan.contests:
        if not np.isfinite([won.harm, won.margin, won.low, won.high]).all():
            raise InputError(f"the range of {won.group} cannot be judged", DAMAGED)


def _usable(scales: Sequence[float]) -> bool:
    """Whether scales are normal numbers of float32, above zero."""
    with np.errstate(over="ignore"):
        values = np.asarray(scales, np.float32)
    return bool((np.isfinite(values) & (values >= np.finfo(np.float32).tiny)).all())


def is_plain(image: Image) -> bool:
    """Whether a photo `(H, W, 3)` is of one colour, so that nothing can be learnt from it."""
    step = max(1, min(image.shape[:2]) // 64)
    return float(image[::step, ::step].std(axis=(0, 1)).max()) < PLAIN


def photos_said(digests: Sequence[bytes]) -> tuple[Verdict, ...]:
    """Name copies among calibration photos; `digests` are those of their files."""
    different = len(set(digests))
    if different == len(digests):
        return ()
    text = (
        f"{len(digests)} calibration images are {different} and copies of "
        f"{'it' if different == 1 else 'them'}: a copy tells nothing new"
    )
    mostly = 2 * different < len(digests)
    return (Verdict(code="same_images", message=text, level="warning" if mostly else "info"),)


def _counted(found: Mapping[str, int], what: str) -> str:
    """How many there are in all.

    >>> _counted({"a": 1}, "channel")
    '1 channel'
    """
    count = sum(found.values())
    return f"{count} {what}{'s' * (count != 1)}"


def _names(nodes: Iterable[str]) -> str:
    """The first of some nodes, and how many more.

    >>> _names(["a", "b", "c", "d", "e"])
    'a, b, c and 2 others'
    """
    listed = list(nodes)
    rest = len(listed) - 3
    shown = ", ".join(listed[:3])
    return f"{shown} and {rest} other{'s' * (rest > 1)}" if rest > 0 else shown
