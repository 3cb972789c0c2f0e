"""How long a program takes, and where the time goes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from onchip.detect.program import Limits, Program
from onchip.vision.preprocess import prepare, read_image

PARTS = ("decode", "preprocess", "inference", "postprocess")
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Latency:
    """Milliseconds per image: percentiles of the whole, and the median of each part."""

    images: int
    whole: dict[int, float]  # by percentile
    parts: dict[str, float]  # median, by name

    @property
    def fps(self) -> float:
        """Images per second, one after the other."""
        return 1000 / self.whole[50]


def latency(
    program: Program,
    images: Sequence[Path],
    *,
    seconds: float = 10.0,
    limits: Limits | None = None,
    progress: Callable[[float], None] = lambda part: None,
) -> Latency:
    """Time a program on image files for about `seconds`, after a warm-up of three images."""
    for path in images[:3]:
        _once(program, path, limits)
    rows: list[list[float]] = []
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or len(rows) < 3:
        rows.append(_once(program, images[len(rows) % len(images)], limits))
        progress(min(1.0, spent / seconds))
    times = np.asarray(rows) * 1000
    whole = np.percentile(times.sum(axis=1), PERCENTILES)
    return Latency(
        images=len(rows),
        whole=dict(zip(PERCENTILES, (float(v) for v in whole), strict=True)),
        parts=dict(zip(PARTS, (float(v) for v in np.median(times, axis=0)), strict=True)),
    )


def _once(program: Program, path: Path, limits: Limits | None) -> list[float]:
    """Return the seconds that each part took on one image."""
    marks = [time.perf_counter()]
    image = read_image(path)
    marks.append(time.perf_counter())
    tensor, box = prepare(image, program.input)
    marks.append(time.perf_counter())
    tensors = program.run(tensor)
    marks.append(time.perf_counter())
    program.read(tensors, box, limits)
    marks.append(time.perf_counter())
    return [b - a for a, b in pairwise(marks)]
