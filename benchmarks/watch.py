"""`watch` with more and more cameras: 1080p at five pictures a second, a chip of 8 ms an image.

    python benchmarks/watch.py                 # 4 to 32 cameras, 25 s each
    python benchmarks/watch.py long 12 600     # memory over ten minutes with 12 cameras

The cameras are a real RTSP server's, on this machine, with a real clip enlarged; so the server
takes its part of the processor too. The chip is a stand-in: 8 ms asleep, one image at a time, two
boxes.
Motion gating is off, so that every picture is looked at. Decoding alone is timed in the same run.
"""

import resource
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np

from common import DATA, ROOT

sys.path.insert(0, str(ROOT / "tests"))

from onchip.detections import Detections
from onchip.watch.config import read
from onchip.watch.watch import Watch

import rtsp

CLIP = DATA / "video" / "person-bicycle-car-detection.mp4"
FPS, SIZE = 5, (1920, 1080)
COUNTS = (4, 8, 12, 16, 20, 24, 28)


class Chip:
    """8 ms an image, one at a time."""

    labels, parallel, depth = ("person", "car"), False, 2

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._count = 0

    def __call__(self, image: np.ndarray) -> Detections:
        with self._turn:
            time.sleep(0.008)
            self._count += 1
            step = self._count % 200
        boxes = [[100 + step, 300, 260 + step, 700], [900, 200 + step, 1300, 420 + step]]
        return Detections(np.array(boxes), np.array([0.8, 0.7]), np.array([0, 1]))

    def close(self) -> None: ...


def memory() -> float:
    """Return this process's memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def written(folder: Path, server: rtsp.Server, count: int) -> Path:
    path = folder / f"cameras-{count}.toml"
    lines = [f'model = "chip.onchip"\ndata = "watch-{count}"\n']
    lines += [
        f'[cameras.c{n}]\nurl = "{server.url(f"c{n}")}"\nfps = {FPS}\nmotion = false\n'
        for n in range(count)
    ]
    path.write_text("".join(lines))
    return path


def row(watch: Watch, count: int) -> None:
    state = watch.state()
    seen = [camera.detect_fps for camera in state.cameras]
    worst = max(camera.age_ms[1] for camera in state.cameras)
    middle = np.median([camera.age_ms[0] for camera in state.cameras])
    print(
        f"{count:>7}  {sum(seen):>7.1f} of {FPS * count:<4} {min(seen):>6.1f}  {middle:>6.0f}  "
        f"{worst:>6.0f}  {100 * state.load:>4.0f} %  {100 * state.processor:>7.0f} %  "
        f"{memory():>6.0f}  {state.limit}",
        flush=True,
    )


def decoding(clip: Path) -> None:
    """How many such cameras two cores could decode, if they did nothing else."""

    def decode(_: int) -> int:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            return sum(1 for _ in container.decode(stream))

    decode(0)
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        frames = sum(pool.map(decode, range(16)))
    rate = frames / (time.perf_counter() - started)
    print(f"decoding alone: {rate:.0f} pictures a second, {rate / FPS:.0f} cameras", flush=True)


def main() -> None:
    long = sys.argv[1:2] == ["long"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = rtsp.clip(CLIP, folder / "1080p.mp4", size=SIZE, fps=FPS, seconds=40)
        decoding(clip)
        counts = (int(sys.argv[2]),) if long else COUNTS
        with rtsp.Server({f"c{n}": clip for n in range(max(counts))}) as server:
            print("cameras  looked at a second   least  age ms   worst    chip  processor     MB")
            for count in counts:
                config = read(written(folder, server, count))
                with Watch(config, open_chip=Chip) as watch:
                    watch.start()
                    seconds = float(sys.argv[3]) if long else 25
                    until = time.monotonic() + seconds
                    while time.monotonic() < until:
                        time.sleep(min(30 if long else 25, max(0.1, until - time.monotonic())))
                        row(watch, count)


if __name__ == "__main__":
    main()
