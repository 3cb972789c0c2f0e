"""Write drawn images and videos, behind the detector."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from onchip.detect.pipeline import Behind
from onchip.detect.sources import Frame
from onchip.detections import Detections
from onchip.errors import InputError
from onchip.vision.draw import draw
from onchip.vision.preprocess import Image
from onchip.writing import write_whole

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

TICKS = 90_000  # of a video's clock, a second


def save_image(image: Image, path: Path) -> None:
    """Write an image; its suffix says the format.

    Raises:
        InputError: it cannot be written there.
    """
    known, data = cv2.imencode(path.suffix or ".jpg", image)
    if not known:
        raise InputError(f"cannot write {path}: not an image format")
    write_whole(path, data.tobytes())


class VideoWriter:
    """Writes frames to an MP4 file, which appears whole when the `with` block ends well."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path = path
        self._part = path.with_name(f".{path.stem}.part.mp4")
        self._rate = rate
        self._last = -1
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, image: Image, seconds: float) -> None:
        """Add one BGR frame, shown at that time; all get the first one's size."""
        import av

        try:
            if self._container is None or self._stream is None:
                self._open(image)
            assert self._container is not None and self._stream is not None
            size = (self._stream.width, self._stream.height)
            if (image.shape[1] // 2 * 2, image.shape[0] // 2 * 2) != size:
                image = np.asarray(cv2.resize(image, size), np.uint8)  # a camera that changed
            frame = av.VideoFrame.from_ndarray(image[: size[1], : size[0]].copy(), format="bgr24")
            self._last = max(self._last + 1, round(seconds * TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
            self._container.mux(self._stream.encode(frame))
        except (OSError, av.FFmpegError) as error:
            raise InputError(f"cannot write {self._path}: {error}") from error

    def _open(self, image: Image) -> None:
        import av

        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._part), "w")
        self._stream = self._container.add_stream("libx264", rate=round(self._rate) or 25)
        self._stream.width, self._stream.height = image.shape[1] // 2 * 2, image.shape[0] // 2 * 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.options = {"preset": "ultrafast", "crf": "23"}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._container is not None and self._stream is not None:
                if kind is None:
                    self._container.mux(self._stream.encode(None))
                self._container.close()
                if kind is None:
                    self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)


class Drawings:
    """Draws frames and writes them below a folder: one video, or an image for each photo."""

    def __init__(self, folder: Path, labels: Sequence[str], video: VideoWriter | None) -> None:
        self._folder, self._labels, self._video = folder, labels, video
        self._behind = Behind(self._write)

    def __enter__(self) -> Self:
        self._behind.__enter__()
        return self

    def add(self, frame: Frame, found: Detections) -> None:
        """Hand over one frame; what went wrong with an earlier one is raised here."""
        self._behind((frame, found))

    def _write(self, item: tuple[Frame, Detections]) -> None:
        frame, found = item
        image = draw(frame.image, found, self._labels)
        if self._video is not None:
            self._video.write(image, frame.seconds)
        else:
            save_image(image, self._folder / f"{frame.name}.jpg")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._behind.__exit__(kind, error, trace)
        except BaseException as failed:
            kind = type(failed)
            raise
        finally:
            if self._video is not None:
                self._video.__exit__(kind, None, None)
