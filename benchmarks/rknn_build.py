"""A whole `onchip build -t rk3588` over the SDK's own build with `normal` on the same 64 images.

The SDK alone is config, load, build and export of the cut graph in a process of its own, with the
images letterboxed and written beforehand. onchip's build reads the images, plans, builds both ways
and compares them (`auto`), or builds its own plan only (`onchip`).

    python benchmarks/rknn_build.py [MODEL ...] [--rounds N]
"""

import sys
import time

import numpy as np
from msgspec.structs import replace

from common import DATA, photos, ratio
from onchip.artifact import Artifact
from onchip.build import Options, build, parse
from onchip.toolchains import install
from onchip.toolchains.worker import Worker
from onchip.vision.preprocess import prepare, read_image

TARGET = "rk3588"


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 3
    names = [a for a in sys.argv[1:] if not a.startswith("--") and not a.isdigit()]
    for name in names or ["yolov8n", "yolov5n"]:
        parsed = parse(DATA / "models" / f"{name}.onnx", TARGET, photos(64))
        auto, ours, sdk = [], [], []
        for _ in range(rounds):
            sdk.append(alone(parsed))
            auto.append(timed(name, {}))
            ours.append(timed(name, {"quantizer": "onchip"}))
        ratio(f"{name}: build, both ways, over the SDK alone", auto, sdk)
        ratio(f"{name}: build, onchip's plan only, over the SDK alone", ours, sdk)


def timed(name: str, target: dict[str, str]) -> float:
    started = time.perf_counter()
    build(DATA / "models" / f"{name}.onnx", TARGET, photos(64), options=Options(target=target))
    return time.perf_counter() - started


def alone(parsed: Artifact) -> float:
    """Seconds of the SDK's own build."""
    spec = replace(parsed.manifest.input, dtype="uint8", layout="nchw")
    tensors = [prepare(read_image(p), spec)[0] for p in photos(64)]
    started = time.perf_counter()
    with Worker(install.ready("rknn"), "rknn_calls", "rknn-toolkit2") as worker:
        (worker.folder / "model.onnx").write_bytes(parsed.payload("cut"))
        for number, tensor in enumerate(tensors):
            np.save(worker.folder / f"{number}.npy", tensor)
        config = {
            "mean_values": [list(spec.mean)],
            "std_values": [list(spec.std)],
            "target_platform": TARGET,
        }
        worker.call("build", model="model.onnx", config=config, quantize=True, images=64)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
