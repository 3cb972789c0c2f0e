"""INT8 against FP32, postprocessing, and video against inference alone; yolov8n."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import onnxruntime as ort

from common import DATA, photos, ratio
from onchip.artifact import save
from onchip.build import build
from onchip.detect.detector import Detector
from onchip.detect.program import Limits
from onchip.vision.preprocess import prepare, read_image

ROUNDS = 7
CLIP = DATA / "video" / "person-bicycle-car-detection.mp4"


def seconds(work: object, items: list[object]) -> float:
    started = time.perf_counter()
    for item in items:
        work(item)  # type: ignore[operator]
    return time.perf_counter() - started


def main() -> None:
    made = build(DATA / "models" / "yolov8n.onnx", "cpu", photos(32))
    detector = Detector(made)
    whole = ort.InferenceSession(made.payload("source"), providers=["CPUExecutionProvider"])
    images = [read_image(p) for p in photos(16)]
    floats = [prepare(i, made.manifest.input)[0] for i in images]
    codes = [prepare(i, detector.program.input)[0] for i in images]
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(detector.session, codes))
        theirs.append(seconds(lambda t: whole.run(None, {"images": t}), floats))
    ratio("INT8 over FP32, inference", ours, theirs)

    tensors = [detector.session(t) for t in codes]
    boxes = [prepare(i, detector.program.input)[1] for i in images]
    for confidence in (0.25, 0.001):
        limits, times = Limits(confidence), []
        for _ in range(20):
            for found, box in zip(tensors, boxes, strict=True):
                started = time.perf_counter()
                detector.program.read(found, box, limits)
                times.append(1000 * (time.perf_counter() - started))
        low, high = np.percentile(times, [5, 95])
        print(f"postprocess at {confidence}: {np.median(times):.2f} ms ({low:.2f} to {high:.2f})")

    with tempfile.TemporaryDirectory() as folder:
        save(made, Path(folder) / "x.onchip")
        with av.open(str(CLIP)) as container:
            frames = [f.to_ndarray(format="bgr24") for f in container.decode(video=0)][:120]
        ready = [prepare(f, detector.program.input)[0] for f in frames]
        short = Path(folder) / "short.mp4"
        cut(frames, short)
        for drawn in ([], ["-o", f"{folder}/seen"]):
            rates, alone = [], []
            for _ in range(3):
                alone.append(len(ready) / seconds(detector.session, ready))
                command = [
                    sys.executable,
                    "-m",
                    "onchip",
                    "detect",
                    f"{folder}/x.onchip",
                    str(short),
                ]
                done = subprocess.run(
                    [*command, *drawn], capture_output=True, text=True, check=True
                )
                rates.append(float(done.stdout.split("frames, ")[1].split(" per second")[0]))
            name = "drawing and writing" if drawn else "boxes only"
            ratios = [a / b for a, b in zip(rates, alone, strict=True)]
            print(f"onchip detect over inference alone, {name}: {np.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True)  # fmt: skip


def cut(frames: list[np.ndarray], path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
