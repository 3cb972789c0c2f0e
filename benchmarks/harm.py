"""Does foreseen harm rank tensors as leaving each one out does? And is its sum right?

For each model and placement: the harm of every group of tensors that share a scale, foreseen from
16 calibration images, against what rounding that group alone does to the detections of photos that
calibrated nothing. Prints Spearman's rank correlation and the ratio of the sums. One photo in
twenty may lose more than all others together, of what reaches further in it than in any that
calibrated: the truth is told once by the sum over photos, and once by the mean of their roots, and
once the harm is foreseen from the very photos that tell the truth, each carried back six times:
what the foresight is worth without the chance of which photos and which signs.

    python benchmarks/harm.py                       all models, on the CPU and for RK3588: an hour
    python benchmarks/harm.py yolov5n --photos 8    one, on fewer photos: noisy
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from common import DATA, MODELS, photos
from onchip.build import Options, optimize, parse, planned_model
from onchip.graph.run import Runner
from onchip.quantize.emit import emit
from onchip.quantize.harm import Wish, asked, cotangents, done, foreseen, influences
from onchip.quantize.observe import Maker
from onchip.quantize.plan import QuantPlan
from onchip.quantize.recipe import recipe
from onchip.quantize.regions import divide
from onchip.vision.preprocess import prepare, read_image
from quantizers.row import samples

FELT = 16
CALIBRATION = 64
DRAWS = 6  # of signs per photo, where the same photos foretell


def main() -> None:
    parser = argparse.ArgumentParser(
        "harm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--photos", type=int, default=24, help="that tell the truth")
    asked_for = parser.parse_args()
    for name in asked_for.models:
        for target in ("cpu", "rk3588"):
            found = compared(name, target, asked_for.photos)
            print(
                f"{name} {target}: rank correlation {found.by_sum:.3f} by the sum, "
                f"{found.by_roots:.3f} by roots, {found.by_same:.3f} from the same photos, "
                f"over {found.groups} groups; "
                f"foreseen over true, summed: {found.ratio:.2f}",
                flush=True,
            )


class Compared(NamedTuple):
    """Rank correlations with the sum over photos and the mean of roots, and the sums' ratio.

    `by_same` is that with the sum, of what is foreseen from the same photos, `DRAWS` times each.
    """

    by_sum: float
    by_roots: float
    by_same: float
    ratio: float
    groups: int


def compared(name: str, target: str, count: int) -> Compared:
    """Hold what is foreseen of each group of tensors against the truth."""
    calibration = photos(CALIBRATION)
    options = Options(max_float=0, recipe=recipe("balanced,-weights"))
    parsed = parse(DATA / "models" / f"{name}.onnx", target, calibration)
    made = optimize(parsed, calibration, options=options)
    plan = msgspec.json.decode(made.payload("plan"), type=QuantPlan)
    model, spec, head = planned_model(made), made.manifest.input, made.manifest.head
    regions = divide(model, head, plan.quant)

    def maker(path: Path) -> Maker:
        return lambda: prepare(read_image(path), spec)[0]

    size, run, random = (spec.width, spec.height), Runner(model.bytes), np.random.default_rng(0)

    def wish(make: Maker) -> Wish:
        return Wish.of(make, cotangents(head, run(make()), size, random))

    def harms_of(paths: Sequence[Path]) -> dict[str, float]:
        felt, _ = influences(model, asked(model, regions), map(wish, map(maker, paths)))
        return {g: h for g, h in foreseen(model, plan, felt).items() if h is not None}

    unseen = [s.path for s in samples("tune", CALIBRATION, count)]
    harms, same = harms_of(calibration[:: CALIBRATION // FELT]), harms_of(unseen * DRAWS)
    inputs = [prepare(read_image(path), spec)[0] for path in unseen]
    wanted = [run(x) for x in inputs]

    def truth(group: str) -> list[float]:
        alone = tuple(t for t in plan.tensors if t.group == group)
        graph = emit(model, regions, replace(plan, layers=(), tensors=alone))
        one = Runner(graph.SerializeToString(), threads=1)
        return [done(head, size, w, one(x)) for w, x in zip(wanted, inputs, strict=True)]

    with ThreadPoolExecutor(2) as pool:
        truths = np.array(list(pool.map(truth, harms)))
    foretold = list(harms.values())
    ratio = len(inputs) * sum(foretold) / max(float(truths.sum()), 1e-30)
    sums, roots = list(truths.sum(1)), list(np.sqrt(truths).sum(1))
    by_same = correlation([same[g] for g in harms], sums)
    by_sum, by_roots = correlation(foretold, sums), correlation(foretold, roots)
    return Compared(by_sum, by_roots, by_same, ratio, len(harms))


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks: list[npt.NDArray[np.int64]] = [np.argsort(np.argsort(v)) for v in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
