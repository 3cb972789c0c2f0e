"""What the tests of the watch page share: a stand-in for a watch, which shows what it is told to,
and a real server before it.
"""  # fmt: skip

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import numpy as np

from onchip.watch.serve import Server, Wanted
from onchip.watch.values import CameraState, Event, PartState, Sighting, WatchState
from onchip.writing import write_whole

WIDE, TALL = 640, 360
DRIVE = ((0.1, 0.5), (0.9, 0.5), (0.9, 0.95), (0.1, 0.95))


@dataclass(frozen=True)
class Shot:
    """A picture of a camera."""

    image: Any
    number: int
    at: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    def bgr(self) -> Any:
        return self.image


class Kept:
    """Events in memory, their pictures and videos in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: dict[str, Event] = {}
        self.lock = threading.Lock()

    def events(
        self, *, before: Any = None, limit: int = 50, camera: Any = None, label: Any = None, zone: Any = None
    ) -> list[Event]:  # fmt: skip
        with self.lock:
            found = sorted(self.all.values(), key=lambda e: e.id, reverse=True)
        return [
            e
            for e in found
            if (before is None or e.id < before)
            and camera in (None, e.camera)
            and label in (None, e.label)
            and (zone is None or zone in e.zones)
        ][:limit]

    def event(self, event: str) -> Event | None:
        return self.all.get(event)

    def snapshot(self, event: str) -> Path | None:
        return self._file(f"{event}.jpg")

    def clip(self, event: str) -> Path | None:
        return self._file(f"{event}.mp4")

    def _file(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.exists() else None

    def delete(self, event: str) -> None:
        with self.lock:
            self.all.pop(event, None)
        for end in ("jpg", "mp4"):
            (self.folder / f"{event}.{end}").unlink(missing_ok=True)


class Double:
    """A watch that shows what it is told to."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.store = Kept(folder)
        self.cameras = {name: camera_state(name) for name in names}
        self.parts = [
            PartState(name=n, state="ok", since=time.time() - 7200)
            for n in ("chip", "disk", "broker")
        ]
        self.facts: dict[str, Any] = {}
        self.looks: dict[str, Any] = {}
        self.ahead = 0.0  # seconds by which its clock differs from the viewer's
        self.asked = 0  # how often pictures were asked for
        self.told: list[Callable[[Event, str], None]] = []
        self.number = 0

    def state(self) -> WatchState:
        figures = {
            "model": "yard.onchip", "chip": "Hailo-8L", "chip_ms": 8.2, "chip_fps": 14.9, "load": 0.42,
            "processor": 0.63, "limit": "nothing: every camera gets the pictures that it wants",
            "events": len(self.store.all), "stored_bytes": 3_412_000_000, "free_bytes": 41_200_000_000,
        }  # fmt: skip
        return WatchState(
            cameras=tuple(self.cameras.values()),
            parts=tuple(self.parts),
            time=time.time() + self.ahead,
            **{**figures, **self.facts},
        )

    def latest(self, camera: str) -> Any:
        self.asked += 1
        return self.looks.get(camera)

    def subscribe(self, told: Callable[[Event, str], None]) -> None:
        self.told.append(told)

    # ---- what a test makes happen

    def show(self, camera: str, image: Any, *sightings: Sighting, at: float | None = None) -> None:
        self.number += 1
        at = time.monotonic() if at is None else at
        self.looks[camera] = (Shot(image, self.number, at), sightings, self.number)

    def change(self, camera: str, **fields: Any) -> None:
        self.cameras[camera] = msgspec.structs.replace(self.cameras[camera], **fields)

    def fail(self, camera: str, message: str, hint: str = "", retry: float = 10.0) -> None:
        now = time.time()
        part = PartState(
            name=camera, state="failing", message=message, hint=hint, since=now, retry=now + retry
        )
        self.change(camera, part=part, fps=0.0, detect_fps=0.0)

    def happen(self, kind: str = "new", *, clip: Path | None = None, **fields: Any) -> Event:
        """Begin, change or end an event, with a picture."""
        usual = {
            "id": f"e{len(self.store.all):04}", "camera": next(iter(self.cameras)), "label": "person",
            "start": time.time(), "score": 0.8, "box": (0.3, 0.3, 0.5, 0.8),
        }  # fmt: skip
        event = Event(**{**usual, "snapshot": True, "clip": clip is not None, **fields})
        if event.snapshot:
            _, data = cv2.imencode(".jpg", scene(event.start))
            write_whole(self.store.folder / f"{event.id}.jpg", data.tobytes())
        if clip is not None:
            (self.store.folder / f"{event.id}.mp4").write_bytes(clip.read_bytes())
        with self.store.lock:
            self.store.all[event.id] = event
        for tell in self.told:
            tell(event, kind)
        return event


def camera_state(name: str, **fields: Any) -> CameraState:
    part = PartState(name=name, state="ok", since=time.time() - 3600)
    return CameraState(
        **{
            "name": name, "part": part, "size": (WIDE, TALL), "fps": 15.0, "wanted_fps": 5.0,
            "detect_fps": 5.0, "age_ms": (71.0, 160.0), "motion": True, "objects": 1,
            "zones": {"drive": DRIVE}, **fields,
        }
    )  # fmt: skip


def sighting(box: Any = (0.3, 0.3, 0.5, 0.8), label: str = "person", **fields: Any) -> Sighting:
    return Sighting(**{"track": 1, "label": label, "score": 0.87, "box": box, **fields})


def scene(when: float, size: tuple[int, int] = (WIDE, TALL)) -> Any:
    """A picture in which something is somewhere else at every time."""
    image = np.full((size[1], size[0], 3), (90, 120, 80), np.uint8)
    x = int((when * 97) % size[0])
    cv2.rectangle(image, (x - 30, size[1] // 3), (x + 30, size[1] * 4 // 5), (40, 60, 220), -1)
    return image


def film(path: Path, seconds: float = 2.0, rate: int = 10, size: Any = (320, 180)) -> Path:
    """Write a video as cameras send them: H.264 in MP4."""
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(round(seconds * rate)):
            image = scene(number / rate, size)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        out.mux(stream.encode())
    return path


@contextmanager
def playing(watch: Double, rate: float = 10.0) -> Iterator[None]:
    """Let all cameras that do not fail send moving pictures during the block."""
    ended = threading.Event()

    def play() -> None:
        while not ended.wait(1 / rate):
            now = time.time()
            for name, camera in list(watch.cameras.items()):
                if camera.part.state == "ok":
                    x = (now * 97 % WIDE) / WIDE
                    box = (max(0.0, x - 0.05), 0.33, min(1.0, x + 0.05), 0.8)
                    watch.show(name, scene(now), sighting(box))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass
class Running:
    """A server before a watch, and the links that it told."""

    server: Server
    watch: Double
    told: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@contextmanager
def running(watch: Any, **wanted: Any) -> Iterator[Running]:
    """Serve a watch for the time of the block."""
    told: list[str] = []
    with Server(watch, Wanted(**{"port": 0, **wanted}), told.append) as server:
        server.start()
        yield Running(server, watch, told)
    assert not any(t.name.startswith(("onchip-page", "onchip-view")) for t in threading.enumerate())
