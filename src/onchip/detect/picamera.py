"""Raspberry Pi cameras, through the system's Picamera2, imported when one is named."""

import concurrent.futures
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onchip.detect.feed import SLICE, Ask, Due, apart
from onchip.detect.lost import lost, silent
from onchip.detect.picture import Picture, Stream
from onchip.detect.place import Place

if TYPE_CHECKING:
    import av

SIZE = (1280, 720)
FPS = 30.0
_CABLE = "is its cable in both sockets? rpicam-hello --list-cameras names what is there"


def pictures(ask: Ask) -> Iterator[Picture]:
    """Yield what a Pi camera sees."""
    camera = apart(ask, lambda: _opened(ask), lambda camera: camera.close())
    try:
        camera.start()
        yield from _captured(camera, ask)
    finally:
        camera.close()


def _opened(ask: Ask) -> Any:
    """Return the camera, set to what is asked."""
    kind = _library(ask.place)
    number = int(ask.place.address)
    there = kind.global_camera_info()
    if number >= len(there):
        raise lost("missing", ask.place, f"is not there: {len(there)} are connected", _CABLE)
    try:
        camera = kind(number)
    except RuntimeError as error:  # its only word for a camera that another program holds
        raise lost("unreachable", ask.place, f"cannot be opened ({error})", _USED) from error
    width, height = ask.place.size or SIZE
    try:
        camera.configure(
            camera.create_video_configuration(
                main={"size": (width - width % 2, height - height % 2), "format": "YUV420"},
                controls={"FrameRate": ask.place.fps or FPS},
                buffer_count=4,
            )
        )
    except RuntimeError as error:
        camera.close()
        raise lost("missing", ask.place, f"cannot do that size ({error})") from error
    return camera


_USED = "does another program use it? only one can"


def _library(place: Place) -> Any:
    try:
        from picamera2 import Picamera2  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise lost(
            "missing", place, f"needs Picamera2, which is not here ({error})",
            "sudo apt install python3-picamera2, and make onchip's environment with "
            "python3 -m venv --system-site-packages, since pip cannot install it whole",
        ) from error  # fmt: skip
    return Picamera2


def _captured(camera: Any, ask: Ask) -> Iterator[Picture]:
    due = Due(ask.rate)
    form = camera.camera_configuration()["main"]
    width, height = form["size"]
    if ask.opened is not None:
        ask.opened(Stream("raw", (width, height), ask.place.fps or FPS))
    heard, number = time.monotonic(), 0
    job = None
    while not ask.closed.is_set():
        job = job or camera.capture_request(wait=False)
        try:
            request = camera.wait(job, timeout=SLICE)
        except concurrent.futures.TimeoutError:
            if time.monotonic() - heard > ask.stall:
                raise silent(ask.place, ask.stall) from None
            continue
        job, now = None, time.monotonic()
        heard = now
        try:  # a request that is kept is a buffer that the camera lacks
            wanted = due.soon(now)
            lines = request.make_array("main") if wanted else None
        finally:
            request.release()
        if lines is not None:
            due.taken(now)
            frame = _frame(lines, width, height)
            yield Picture(now, time.time(), number, (width, height), True, None, frame)
            number += 1


def _frame(lines: npt.NDArray[np.uint8], width: int, height: int) -> "av.VideoFrame":
    """Turn Picamera2's YUV420, whose lines are padded, into a frame."""
    import av

    stride = lines.shape[1]
    flat = lines.reshape(-1)
    bright = flat[: height * stride].reshape(height, stride)[:, :width]
    color = flat[height * stride :].reshape(height, stride // 2)[:, : width // 2]
    packed = np.concatenate([bright.ravel(), color.ravel()]).reshape(height * 3 // 2, width)
    return av.VideoFrame.from_ndarray(packed, format="yuv420p")
