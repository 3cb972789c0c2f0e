"""A whole build of yolov8n against one FP32 pass of ONNX Runtime over the same 64 images.

The build is the command line in a process of its own, start included; the pass reads, letterboxes
and runs each image with ONNX Runtime's defaults. `--peer` adds ONNX Runtime's MinMax quantizer.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnxruntime as ort

from common import DATA, photos, ratio
from onchip.graph.read import load
from onchip.spec import InputSpec
from onchip.vision.preprocess import prepare, read_image

ROUNDS = 5
MODEL = DATA / "models" / "yolov8n.onnx"
SPEC = InputSpec(name="images", width=640, height=640)


def float_pass(paths: list[Path]) -> float:
    session = ort.InferenceSession(load(MODEL).bytes, providers=["CPUExecutionProvider"])
    started = time.perf_counter()
    for path in paths:
        session.run(None, {"images": prepare(read_image(path), SPEC)[0]})
    return time.perf_counter() - started


def build(count: int) -> tuple[float, float]:
    """Seconds and peak MB of a build on `count` images."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "photos"
        images.mkdir()
        for number, path in enumerate(photos(count)):
            (images / f"{number:04}.jpg").symlink_to(path)
        command = [sys.executable, "-m", "onchip", "build", str(MODEL), "-c", str(images)]
        command += ["--images", "0", "-o", f"{folder}/x.onchip", "--json"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return time.perf_counter() - started, json.loads(done.stdout)["peak_rss_mb"]


def peer(paths: list[Path]) -> float:
    """ONNX Runtime's own MinMax quantizer on the same tensors."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(paths)

        def get_next(self) -> dict[str, object] | None:
            path = next(self.left, None)
            return None if path is None else {"images": prepare(read_image(path), SPEC)[0]}

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        quantize_static(str(MODEL), f"{folder}/q.onnx", Reader(), per_channel=True)
        return time.perf_counter() - started


def main() -> None:
    paths = photos(64)
    float_pass(paths[:4])
    ours, theirs, peak = [], [], 0.0
    for _ in range(ROUNDS):
        theirs.append(float_pass(paths))
        seconds, memory = build(64)
        ours.append(seconds)
        peak = max(peak, memory)
    ratio("build over one FP32 pass, 64 images", ours, theirs)
    print(f"peak memory, 64 images: {peak:.0f} MB", flush=True)
    print(f"peak memory, 512 images: {build(512)[1]:.0f} MB", flush=True)
    if "--peer" in sys.argv:
        ratio("ONNX Runtime's MinMax over one FP32 pass", [peer(paths)], [float_pass(paths)])


if __name__ == "__main__":
    main()
