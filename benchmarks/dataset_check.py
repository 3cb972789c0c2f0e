"""Seconds and peak memory of `onchip dataset check` on 1,000 and on 10,000 photos of 640x480.

Photos are made here: blotches of several sizes with the grain of a sensor, about 110 kB each as
JPEG. `--page` also writes the page.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

SIZES = (1_000, 10_000)
NAMES = ("car", "person", "sign")


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        one(Path(sys.argv[2]), page="--page" in sys.argv)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = 0
        for size in SIZES:
            write(folder, made, size)
            made = size
            command = [sys.executable, __file__, "--one", str(folder), *sys.argv[1:]]
            subprocess.run(command, check=True)


def one(folder: Path, page: bool) -> None:
    """Check once, in a process of its own, so that its peak is its own."""
    from onchip.dataset.check import check

    before = peak()
    started = time.perf_counter()
    report = check(folder / "data.yaml")
    seconds = time.perf_counter() - started
    count = sum(part.images for part in report.parts)
    if page:
        from onchip.report.dataset_page import page as made

        text = made(report)
        print(f"page: {len(text) / 1e6:.1f} MB")
    print(
        f"{count:>6} photos: {seconds:5.1f} s, peak {peak():.0f} MB "
        f"({before:.0f} MB before), {len(report.findings)} findings",
        flush=True,
    )


def peak() -> float:
    """The most memory that this process held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(folder: Path, first: int, stop: int) -> None:
    """Write photos and labels from number `first` to before `stop`."""
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(first)
    grain = random.normal(0, 5, (480, 640, 3)).astype(np.float32)
    for number in range(first, stop):
        image = np.zeros((480, 640, 3), np.float32)
        for cells in (4, 12, 40):
            blotches = random.uniform(0, 85, (cells * 3 // 4, cells, 3)).astype(np.float32)
            image += cv2.resize(blotches, (640, 480), interpolation=cv2.INTER_CUBIC)
        image += np.roll(grain, number * 37, axis=1)
        split = "val" if number % 5 == 0 else "train"
        path = folder / "images" / split / f"{number:06}.jpg"
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))
        boxes = random.uniform(0.2, 0.4, (8, 4))
        lines = (
            f"{i % 3} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for i, (x, y, w, h) in enumerate(boxes)
        )
        (folder / "labels" / split / f"{number:06}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text(
        f"train: images/train\nval: images/val\nnames: [{', '.join(NAMES)}]\n"
    )


if __name__ == "__main__":
    main()
