"""Does foreseen harm rank tensors as leaving each one out does? And is its sum right?

For each model and placement: the harm of every group of tensors that share a scale, foreseen from
16 calibration images, against what rounding that group alone does to the detections of photos that
calibrated nothing. Prints Spearman's rank correlation and the ratio of the sums.

    python benchmarks/harm.py                       all models, on the CPU and for RK3588: an hour
    python benchmarks/harm.py yolov5n --photos 4    one, on fewer photos
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(
        "harm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--photos", type=int, default=8, help="that tell the truth")
    asked_for = parser.parse_args()
    for name in asked_for.models:
        for target in ("cpu", "rk3588"):
            ranks, ratio, groups = compared(name, target, asked_for.photos)
            print(
                f"{name} {target}: rank correlation {ranks:.3f} over {groups} groups; "
                f"foreseen over true, summed: {ratio:.2f}",
                flush=True,
            )


def compared(name: str, target: str, count: int) -> tuple[float, float, int]:
    """Return the rank correlation, the ratio of the sums, and the number of groups."""
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

    makers = [maker(p) for p in calibration[:: CALIBRATION // FELT]]
    felt, _ = influences(model, asked(model, regions), map(wish, makers))
    harms = {g: h for g, h in foreseen(model, plan, felt).items() if h is not None}
    inputs = [prepare(read_image(s.path), spec)[0] for s in samples("tune", CALIBRATION, count)]
    wanted = [run(x) for x in inputs]

    def truth(group: str) -> float:
        alone = tuple(t for t in plan.tensors if t.group == group)
        graph = emit(model, regions, replace(plan, layers=(), tensors=alone))
        one = Runner(graph.SerializeToString(), threads=1)
        return sum(done(head, size, w, one(x)) for w, x in zip(wanted, inputs, strict=True))

    with ThreadPoolExecutor(2) as pool:
        truths = list(pool.map(truth, harms))
    ratio = count * sum(harms.values()) / max(sum(truths), 1e-30)
    return correlation(list(harms.values()), truths), ratio, len(harms)


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks: list[npt.NDArray[np.int64]] = [np.argsort(np.argsort(v)) for v in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
