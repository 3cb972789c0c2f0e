"""Has children that make events and clips until they are killed, and say each end that was saved.

For each folder and pipe on standard input it has one, and says its number, and then that it ended.
"""

import itertools
import os
import sys
import time
from pathlib import Path
from typing import TextIO

import av
import cv2
import numpy as np
from msgspec.structs import replace

from onchip.watch.config import Keep
from onchip.watch.events import ids
from onchip.watch.health import Health
from onchip.watch.record import Recorder
from onchip.watch.store import Store
from onchip.watch.values import Event


def video(path: Path) -> None:
    """Write two seconds of noise as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 10
        stream.options = {"preset": "ultrafast"}
        random = np.random.default_rng(0)
        for _ in range(40):
            image = random.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))


def main(folder: Path, source: Path, said: TextIO) -> None:
    def told(event: Event, kind: str) -> None:
        if kind == "end":
            said.write(f"{event.id}\n")
            said.flush()

    if not source.exists():
        video(source)
    store = Store(folder, Keep(), Health(), told)
    newest = store.events(limit=1)
    make_id = ids(newest[0].id if newest else "")
    recorder = Recorder("front", store.underway, store.add_clip, Health(), before=0.02, after=0.01)
    picture = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    container = av.open(str(source))
    stream = container.streams.video[0]
    packets = [packet for packet in container.demux(stream) if packet.size]
    open_events: list[Event] = []
    said.write("ready\n")
    said.flush()
    for number in itertools.count():
        for packet in packets[number % 4 * 10 :][:10]:
            recorder.packet(packet, stream)
        begun = Event(
            id=make_id(time.time()), camera="front", label="car", start=time.time(), score=0.5,
            box=(0.0, 0.0, 1.0, 1.0),
        )  # fmt: skip
        recorder.begin(begun.id)
        store.put(begun, picture)
        open_events.append(begun)
        if len(open_events) > 3:
            ended = replace(open_events.pop(0), end=time.time(), why="left")
            recorder.end(ended.id)
            store.put(ended, picture)
        time.sleep(0.004)


if __name__ == "__main__":
    while folder := sys.stdin.readline().strip():
        pipe = sys.stdin.readline().strip()
        child = os.fork()
        if child == 0:
            with Path(pipe).open("w") as said:
                main(Path(folder), Path(folder).with_name("source.mp4"), said)
        print(child, flush=True)
        os.waitpid(child, 0)
        print(child, "ended", flush=True)
