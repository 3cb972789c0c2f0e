"""`onchip detect` on a clip against inference alone, and against Ultralytics with the same ONNX.

Needs torch and ultralytics (tests/zoo-requirements.txt), which export the small model and are the
peer. Every round times all of them, one after the other, on the same frames.
"""

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import av
import numpy as np

from common import DATA, photos
from onchip.artifact import save
from onchip.build import build
from onchip.detect.detector import Detector
from onchip.detect.program import Limits
from onchip.detect.sources import find
from onchip.vision.preprocess import prepare

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
FRAMES = 200
SMALL = 416
CLIP = DATA / "video" / "person-bicycle-car-detection.mp4"
# The peer, in a process of its own: frames a second of `predict`, without loading and warming up.
PEER = """
import sys, time, json
from pathlib import Path
from onchip.train.standin import prepare
prepare(Path(sys.argv[3]))
from ultralytics import YOLO
model = YOLO(sys.argv[1], task="detect")
size = int(sys.argv[4])
found = model.predict(sys.argv[2], stream=True, verbose=False, imgsz=size, conf=0.25, iou=0.45)
first = next(found)
started, count = time.perf_counter(), 0
for result in found:
    count += len(result.boxes) >= 0
print(json.dumps(count / (time.perf_counter() - started)))
"""
EXPORT = """
import sys
from pathlib import Path
from onchip.train.standin import prepare
prepare(Path(sys.argv[2]))
from ultralytics import YOLO
YOLO(sys.argv[1]).export(format="onnx", imgsz=int(sys.argv[3]), opset=17)
"""


def python(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def peer(model: Path, clip: Path, folder: Path, size: int) -> float:
    return float(json.loads(python(PEER, model, clip, folder, size).splitlines()[-1]))


def ours(model: Path, clip: Path, *more: str) -> float:
    command = [sys.executable, "-m", "onchip", "detect", model, clip, *more]
    done = subprocess.run(map(str, command), capture_output=True, text=True, check=True)
    return float(done.stdout.split("frames, ")[1].split(" per second")[0])


def alone(detector: Detector, tensors: list[np.ndarray], callers: int) -> float:
    """Inference alone, with so many callers: one after the other, or as `detect` calls it."""
    started = time.perf_counter()
    if callers == 1:
        for tensor in tensors:
            detector.session(tensor)
    else:
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(detector.session, tensors))
    return len(tensors) / (time.perf_counter() - started)


def told(name: str, first: list[float], second: list[float]) -> None:
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    print(
        f"{name}: {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"{np.median(first):.1f} and {np.median(second):.1f} frames per second",
        flush=True,
    )


def cut(path: Path) -> None:
    with av.open(str(CLIP)) as source, av.open(str(path), "w") as made:
        taken = source.streams.video[0]
        stream = made.add_stream_from_template(taken)
        for packet in islice(source.demux(taken), FRAMES):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)


def compare(name: str, onnx: Path, size: int, clip: Path, folder: Path) -> None:
    made = build(onnx, "cpu", photos(32))
    artifact = folder / f"{onnx.stem}.onchip"
    save(made, artifact)
    soon, many = Detector(made), Detector(made, threads=1)
    tensors = [prepare(f.image, soon.program.input)[0] for f in find(str(clip)).frames()]
    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for what, rate in (
            ("detect", lambda: ours(artifact, clip)),
            ("drawn", lambda: ours(artifact, clip, "-o", str(folder / "seen"))),
            ("float", lambda: ours(onnx, clip)),
            ("alone", lambda: alone(soon, tensors, 1)),
            ("at once", lambda: alone(many, tensors, many.session.depth)),
            ("peer", lambda: peer(onnx, clip, folder, size)),
        ):
            rates.setdefault(what, []).append(rate())
    print(f"{name}: {1000 / np.median(rates['alone']):.1f} ms")
    told("  detect over inference alone, one after the other", rates["detect"], rates["alone"])
    told("  detect over inference alone, as many at once", rates["detect"], rates["at once"])
    told("  detect, drawn and encoded, over inference alone", rates["drawn"], rates["alone"])
    told("  detect INT8 over Ultralytics with the FP32 ONNX", rates["detect"], rates["peer"])
    told("  detect with the FP32 ONNX over Ultralytics with it", rates["float"], rates["peer"])
    times = []
    looked = [(soon.session(t), prepare(f.image, soon.program.input)[1])
              for t, f in zip(tensors, find(str(clip)).frames(), strict=True)]  # fmt: skip
    for tensors_, box in looked * 3:
        started = time.perf_counter()
        soon.program.read(tensors_, box, Limits(0.25))
        times.append(1000 * (time.perf_counter() - started))
    low, middle, high = np.percentile(times, [5, 50, 95])
    print(f"  postprocess at 0.25: {middle:.2f} ms ({low:.2f} to {high:.2f})", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        cut(clip)
        compare("yolov8n 640", DATA / "models" / "yolov8n.onnx", 640, clip, folder)
        weights = folder / "small.pt"
        weights.write_bytes((DATA / "models" / "yolov8n.pt").read_bytes())
        python(EXPORT, weights, folder, SMALL)
        compare(f"yolov8n {SMALL}", weights.with_suffix(".onnx"), SMALL, clip, folder)


if __name__ == "__main__":
    main()
