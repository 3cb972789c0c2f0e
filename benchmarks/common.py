"""What the scripts share."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("ONCHIP_DATA", ROOT.parent / "shared" / "data"))
MODELS = ("yolov8n", "yolov5n", "nanodet_m", "yolox_nano")


def photos(count: int) -> list[Path]:
    """Calibration images; they come round again where there are not so many."""
    found = sorted((DATA / "coco" / "images" / "train2017").glob("*.jpg"))
    return [found[i % len(found)] for i in range(count)]


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """Print the median of pairwise ratios, with the least and the largest."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"medians {statistics.median(ours):.3f} and {statistics.median(theirs):.3f} s",
        flush=True,
    )
