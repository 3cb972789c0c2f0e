"""One picture of a camera, converted only where someone asks."""

import re
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import av

    from onchip.vision.preprocess import Image

Gray = npt.NDArray[np.uint8]

# Formats of FFmpeg whose first plane is brightness, a byte each.
_PLANAR = re.compile("yuvj?4[0-4][0-4]p|nv12|nv21|nv16|nv24|gray")


@dataclass(frozen=True)
class Stream:
    """What a camera sends: codec, size, pictures a second; zeros where that is not known yet."""

    codec: str
    size: tuple[int, int]
    fps: float


_own = threading.local()


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    `at` is when it arrived (`time.monotonic()`) and `wall` the same for people (`time.time()`);
    `number` counts the pictures of a connection that were given, from 0; `pts` is its time in the
    stream, in seconds; `key` says whether it stands alone.
    """

    at: float
    wall: float
    number: int
    size: tuple[int, int]
    key: bool
    pts: float | None
    frame: "av.VideoFrame" = field(repr=False)
    _images: "list[Image]" = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def gray(self) -> Gray:
        """Return the brightness `(H, W)`, not to be written: often the decoder's own memory."""
        return luma(self.frame)

    def bgr(self) -> "Image":
        """Return the picture `(H, W, 3)`, blue first, as a file's would be; converted once."""
        with self._lock:
            if not self._images:
                self._images.append(bgr(self.frame))
            return self._images[0]


def bgr(frame: "av.VideoFrame") -> "Image":
    """Return a frame `(H, W, 3)`, blue first: PyAV's own conversion, without its copy after it."""
    from av.video.reformatter import VideoReformatter

    if not hasattr(_own, "reformatter"):
        _own.reformatter = VideoReformatter()  # keeps FFmpeg's tables from frame to frame
    made = _own.reformatter.reformat(frame, format="bgr24")
    rows: Gray = np.frombuffer(made.planes[0], np.uint8)
    rows = rows[: made.height * made.planes[0].line_size].reshape(made.height, -1)
    return rows[:, : 3 * made.width].reshape(made.height, made.width, 3)


def luma(frame: "av.VideoFrame") -> Gray:
    """Return a frame's brightness `(H, W)`: a view that keeps the frame, where it has a plane."""
    name = frame.format.name
    if _PLANAR.fullmatch(name):
        return _rows(frame)[:, : frame.width]
    if name in ("yuyv422", "uyvy422"):
        first = 0 if name == "yuyv422" else 1
        return _rows(frame)[:, first : first + 2 * frame.width : 2]
    gray: Gray = frame.to_ndarray(format="gray")
    return gray


def _rows(frame: "av.VideoFrame") -> Gray:
    """The first plane with the padding at the ends of its lines."""
    plane = frame.planes[0]
    rows: Gray = np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size].reshape(
        plane.height, plane.line_size
    )
    rows.flags.writeable = False
    return rows


def seconds(stamp: int | None, base: Fraction | None) -> float | None:
    """Turn a time of a stream into seconds."""
    return None if stamp is None or base is None else float(stamp * base)
