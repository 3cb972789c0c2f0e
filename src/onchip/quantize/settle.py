"""Try plans on images: what is foreseen is right for small errors, large ones only a run shows."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.quantize.emit import emit
from onchip.quantize.harm import done
from onchip.quantize.plan import QuantPlan
from onchip.quantize.regions import divide
from onchip.several import each
from onchip.spec import HeadSpec


def settle(
    model: Model,
    head: HeadSpec,
    plans: Mapping[str, QuantPlan],
    inputs: Sequence[npt.NDArray[np.generic]],
) -> tuple[str, dict[str, float]]:
    """Run plans on a few images; return the name of the best, and the harm that each did.

    It is the mean of each image's root, so that one image does not decide.
    """
    run = Runner(model.bytes, threads=1)
    wanted = list(each(run, inputs))
    _, _, height, width = model.inputs[0].shape
    harms = {}
    for name, plan in plans.items():
        regions = divide(model, head, plan.quant, plan.floats)
        quantized = Runner(emit(model, regions, plan).SerializeToString(), threads=1)
        pairs = zip(wanted, each(quantized, inputs), strict=True)
        roots = (done(head, (width, height), *pair) ** 0.5 for pair in pairs)
        harms[name] = sum(roots) / max(len(inputs), 1)
    return min(harms, key=lambda name: harms[name]), harms
