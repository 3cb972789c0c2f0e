"""Rockchip's simulator: our plan against the SDK's own quantization, on the 128 validation images.

For each model: points of mAP50-95 lost, AP against the float network's own detections, matched
detections, and seconds in the SDK. Then our emulation against the simulator, and the wall time of
a whole build over the time of the SDK's own calls in it.

    python benchmarks/rknn.py                         our plan and `normal`, all models
    python benchmarks/rknn.py --mmse yolov8n          also mmse, on 8 images (minutes)
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from common import DATA, MODELS, photos
from onchip.artifact import Artifact
from onchip.build import Options, compile_, cut_model, optimize, parse, quantized
from onchip.dataset.samples import Dataset, load
from onchip.detect.detector import Detector
from onchip.detect.program import FOR_ACCURACY, Program
from onchip.detections import Detections
from onchip.graph.run import Runner
from onchip.measure.accuracy import accuracy, match
from onchip.measure.parity import Noise, pair, parity
from onchip.vision.preprocess import prepare, read_image

CLEAR = 0.25
FEW = 8  # images for mmse, whose time is minutes for each ten
TARGET = "rk3588"


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("--")] or MODELS
    data = load(DATA / "coco" / "data.yaml")
    for name in names:
        started = time.perf_counter()
        parsed = parse(DATA / "models" / f"{name}.onnx", TARGET, photos(64))
        planned = optimize(parsed, photos(64))
        wanted = seen(float_program(planned), data)
        print(f"\n{name}: float mAP50-95 {100 * ap(wanted, truths(data), planned):.1f}", flush=True)
        ways: list[tuple[str, dict[str, str], int]] = [
            ("onchip", {"quantizer": "onchip"}, 64),
            ("normal", {"quantizer": "vendor"}, 64),
        ]
        if "--mmse" in sys.argv:
            ways.append(("mmse", {"quantizer": "vendor", "algorithm": "mmse"}, FEW))
        for way, options, count in ways:
            made = compile_(planned, photos(count), options=Options(target=options))
            report(way, made, wanted, data)
            if way == "onchip":
                emulation(made, data)
        started = time.perf_counter()
        again = parse(DATA / "models" / f"{name}.onnx", TARGET, photos(64))
        again = compile_(optimize(again, photos(64)), photos(64))
        wall = time.perf_counter() - started
        floats = [v.message for v in again.manifest.verdicts if v.code == "layers_in_float"]
        print(f"  whole build, both ways: {wall:.1f} s; {again.manifest.stages[-1].notes}", *floats)


def float_program(made: Artifact) -> Program:
    manifest = made.manifest
    return Program(Runner(cut_model(made).bytes), manifest.input, manifest.head)


def seen(program: Program, data: Dataset) -> list[Detections]:
    return [program(read_image(s.path), FOR_ACCURACY) for s in data.samples]


def truths(data: Dataset) -> list[Detections]:
    found = []
    for sample in data.samples:
        height, width = read_image(sample.path).shape[:2]
        found.append(sample.truth((width, height)))
    return found


def ap(found: Sequence[Detections], truth: Sequence[Detections], made: Artifact) -> float:
    classes = made.manifest.head.classes
    matches = [match(f, t, classes) for f, t in zip(found, truth, strict=True)]
    return accuracy(matches, classes, resamples=0).map50_95


def report(way: str, made: Artifact, wanted: Sequence[Detections], data: Dataset) -> None:
    with Detector(made) as detector:
        found = seen(detector.program, data)
    clear = [w[w.scores >= CLEAR] for w in wanted]
    lost = 100 * (ap(wanted, truths(data), made) - ap(found, truths(data), made))
    alike = parity([pair(c, f[f.scores >= CLEAR]) for c, f in zip(clear, found, strict=True)])
    print(
        f"  {way:<8} lost {lost:5.2f}   AP against float {100 * ap(found, clear, made):5.1f}   "
        f"matched {alike.matched:.1%}   IoU {alike.mean_iou:.3f}   "
        f"{made.manifest.stages[-1].notes['seconds in the SDK']} s   "
        f"{len(made.payload('program')) / 1e6:.2f} MB",
        flush=True,
    )


def emulation(made: Artifact, data: Dataset, count: int = 8) -> None:
    """Compare the simulator with our emulation, head tensor by head tensor."""
    manifest = made.manifest
    plan = Runner(quantized(made).bytes, optimize=False)
    spec = replace(manifest.input, dtype="uint8" if manifest.input.uniform else "float32")
    noise = Noise(manifest.head)
    raw: dict[str, list[float]] = {}
    with Detector(made) as detector:
        assert manifest.program_input is not None
        for sample in data.samples[:count]:
            image = read_image(sample.path)
            ours = plan(prepare(image, spec)[0])
            theirs = detector.session(prepare(image, manifest.program_input)[0])
            noise.add(ours, theirs)
            for name, values in ours.items():
                power, error = np.square(values).sum(), np.square(values - theirs[name]).sum()
                raw.setdefault(name, []).append(float(10 * np.log10(power / max(error, 1e-9))))
    values = ", ".join(f"{np.mean(v):.1f}" for v in raw.values())
    print(f"  simulator against our emulation, dB by head tensor: {values}", flush=True)


if __name__ == "__main__":
    main()
