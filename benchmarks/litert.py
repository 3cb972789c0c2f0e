"""The INT8 plans in LiteRT, in ONNX Runtime, and the float network: milliseconds an image.

Inference alone, with one thread and with two, one after the other in every round. The ratio is
that of the medians; in brackets the least and the largest of single rounds.

    python benchmarks/litert.py                all models
    python benchmarks/litert.py yolov8n
"""

import statistics
import sys
import time
from functools import partial

import numpy as np
import onnxruntime as ort

from common import DATA, MODELS, photos, ratio
from onchip.build import build
from onchip.graph.run import session
from onchip.targets import target as targets
from onchip.vision.preprocess import prepare, read_image

ROUNDS = 20
IMAGES = 4


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        path = DATA / "models" / f"{name}.onnx"
        made = {target: build(path, target, photos(64)) for target in ("tflite", "cpu")}
        images = [read_image(p) for p in photos(IMAGES)]
        inputs = {}
        for target, artifact in made.items():
            spec = artifact.manifest.program_input
            assert spec is not None
            inputs[target] = [prepare(i, spec)[0] for i in images]
        floats = [prepare(i, made["cpu"].manifest.input)[0] for i in images]
        for threads in (1, 2):
            sessions = {t: targets.get(t).open(a, threads) for t, a in made.items()}
            # whose idle threads sleep, or they would take the next one's cores
            loaded = session(made["cpu"].payload("source"), threads, spinning=False)
            whole = partial(run, loaded, loaded.get_inputs()[0].name)
            works = {t: (s, inputs[t]) for t, s in sessions.items()} | {"float": (whole, floats)}
            times = compare(works)
            print(f"\n{name}, {threads} threads", flush=True)
            for other in ("cpu", "float"):
                ratio(f"  tflite over {other}", times["tflite"], times[other])
            for one in sessions.values():
                one.close()


def run(loaded: ort.InferenceSession, name: str, tensor: np.ndarray) -> None:
    loaded.run(None, {name: tensor})


def compare(works: dict[str, tuple[object, list[np.ndarray]]]) -> dict[str, list[float]]:
    """Seconds an image of each, by round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, (work, tensors) in works.items():
            found = []
            for tensor in tensors:
                started = time.perf_counter()
                work(tensor)  # type: ignore[operator]
                found.append(time.perf_counter() - started)
            if number:  # the first warms up
                times[name].append(statistics.median(found))
    return times


if __name__ == "__main__":
    main()
