"""From 250 rendered scenes to a proven INT8 build: 200 to train on, 50 to validate, 200 held out.

Prints, per seed, the seconds of training (the wall clock's and the processors'), mAP on the scenes
that training never saw, and what INT8 loses of it on this CPU.

    python benchmarks/train_scenes.py [SEED ...]
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

from onchip.build import build
from onchip.dataset import samples
from onchip.demo.scenes import write
from onchip.train.export import Export, export
from onchip.train.fit import Training, fit
from onchip.verify import verify
from onchip.vision.preprocess import find_images

TRAIN_SEED, VAL_SEED, HELD_OUT_SEED = 100_000, 200_000, 300_000
# the settings of docs/train.md
SMALL = {"model": "yolov8n.yaml", "width": 0.125, "imgsz": 416, "batch": 8, "epochs": 45}
MORE = {
    "optimizer": "AdamW",
    "lr0": 0.005,
    "warmup_epochs": 1,
    "mosaic": 0.0,
    "rect": True,
    "cache": "ram",
    "plots": False,
}


def main() -> None:
    seeds = [int(a) for a in sys.argv[1:]] or [0, 1, 2]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write(place / "scenes", 200, TRAIN_SEED, "train")
        data = write(place / "scenes", 50, VAL_SEED, "val")
        held_out = write(place / "held-out", 200, HELD_OUT_SEED, "val")
        for seed in seeds:
            print(f"seed {seed}: {one(seed, place, data, held_out)}", flush=True)


def one(seed: int, place: Path, data: Path, held_out: Path) -> str:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    wanted = Training(
        data=data, name=f"seed{seed}", project=place / "runs", seed=seed, more=MORE, **SMALL
    )
    trained = fit(wanted)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processors = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    exported = export(Export(trained.best, trust=True))
    photos = find_images(data.parent / "images" / "train")
    built = build(exported.path, "cpu", photos[:128])
    proof = verify(built, samples.load(held_out), labelled=True)
    first, last = proof.rows[0].accuracy, proof.rows[-1].accuracy
    assert first is not None and last is not None
    return (
        f"{wall:.0f} s ({processors:.0f} s of processors), mAP50 {first.map50:.3f}, mAP50-95 "
        f"{first.map50_95:.3f}; INT8: mAP50 {last.map50:.3f}, {proof.rows[-1].drop:+.2f} points of "
        f"mAP50-95; export {'proven' if exported.proof.passed else 'FAILED'}"
    )


if __name__ == "__main__":
    main()
