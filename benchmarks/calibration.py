"""How much calibration is enough: plans made with 1 to 64 photos, on photos that none of them saw.

    python benchmarks/calibration.py yolox_nano nanodet_m --recipe fast --draws 3

The photos are of train2017: the first 128 to draw from, the others to measure on. A draw is an
order of the 128; its first 1, 2, 4 ... are used. Fidelity is AP against the float network's own
detections. How far ranges still move is the change of a tensor's scale to that of all 64, in
octaves: the median over the tensors, and what one in twenty passes.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from common import DATA, MODELS
from onchip.artifact import Artifact
from onchip.build import Options, cut_model, optimize, parse, quantized
from onchip.detect.program import FOR_ACCURACY, Program
from onchip.detections import Detections
from onchip.graph.run import Runner
from onchip.measure.accuracy import accuracy, match
from onchip.quantize.plan import QuantPlan
from onchip.quantize.recipe import recipe
from onchip.vision.preprocess import read_image

POOL = 128
COUNTS = (1, 2, 4, 8, 16, 32, 64)
CLEAR = 0.25


@dataclass(frozen=True)
class Trial:
    """One plan: of how many photos, what it keeps, and the scale of each tensor."""

    images: int
    fidelity: float
    scales: dict[str, float]


class Network:
    """A model that was parsed, and what its float network sees on the photos to measure on."""

    def __init__(self, name: str, target: str) -> None:
        found = sorted((DATA / "coco" / "images" / "train2017").glob("*.jpg"))
        self.pool, self.held = found[:POOL], found[POOL:]
        made = parse(DATA / "models" / f"{name}.onnx", "cpu", self.pool)
        self._parsed = replace(made, manifest=msgspec.structs.replace(made.manifest, target=target))

    @cached_property
    def _wanted(self) -> list[Detections]:
        found = self._look(cut_model(self._parsed).bytes, bytes_in=False)
        return [f[f.scores >= CLEAR] for f in found]

    def trial(self, photos: Sequence[Path], options: Options) -> Trial:
        """Make a plan of some photos and measure it."""
        made = optimize(self._parsed, photos, options=options)
        plan = msgspec.json.decode(made.payload("plan"), type=QuantPlan)
        scales = {t.name: t.scale for t in plan.tensors}
        return Trial(len(photos), self._fidelity(made), scales)

    def _fidelity(self, made: Artifact) -> float:
        found = self._look(quantized(made).bytes, bytes_in=made.manifest.input.uniform)
        classes = made.manifest.head.classes
        matches = [match(f, w, classes) for f, w in zip(found, self._wanted, strict=True)]
        return 100 * accuracy(matches, classes, resamples=0).map50_95

    def _look(self, graph: bytes, *, bytes_in: bool) -> list[Detections]:
        spec, head = self._parsed.manifest.input, self._parsed.manifest.head
        spec = msgspec.structs.replace(spec, dtype="uint8" if bytes_in else "float32")
        program = Program(Runner(graph, threads=2), spec, head)
        return [program(read_image(p), FOR_ACCURACY) for p in self.held]


def moved(trial: Trial, last: Trial) -> list[float]:
    """Return by how many octaves each scale differs from that of the last trial."""
    both = trial.scales.keys() & last.scales.keys()  # a split can have made others
    return [abs(float(np.log2(trial.scales[n] / last.scales[n]))) for n in both]


def draws(network: Network, number: int, options: Options) -> list[list[Trial]]:
    """Return the trials of each draw, by rising number of photos."""
    found = []
    for seed in range(number):
        order = np.random.default_rng(seed).permutation(len(network.pool))
        photos = [network.pool[i] for i in order]
        found.append([network.trial(photos[:count], options) for count in COUNTS])
    return found


def table(name: str, found: Sequence[Sequence[Trial]]) -> None:
    """Print what became of each number of photos."""
    print(f"\n| {name}: photos | fidelity, mean (least to most) | ranges move: median | 1 in 20 |")
    print("|---|---|---|---|")
    for place, count in enumerate(COUNTS):
        fidelity = [trials[place].fidelity for trials in found]
        moves = [moved(trials[place], trials[-1]) for trials in found]
        spread = f"{min(fidelity):.1f} to {max(fidelity):.1f}"
        middle = statistics.mean(float(np.median(m)) for m in moves)
        far = statistics.mean(float(np.percentile(m, 95)) for m in moves)
        print(
            f"| {count} | {statistics.mean(fidelity):.1f} ({spread}) | {middle:.2f} | {far:.2f} |",
            flush=True,
        )


def main() -> None:
    """Read the options and print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--recipe", default="balanced")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--draws", type=int, default=3)
    given = parser.parse_args()
    options = Options(recipe=recipe(given.recipe))
    for name in given.models:
        table(name, draws(Network(name, given.target), given.draws, options))


if __name__ == "__main__":
    main()
