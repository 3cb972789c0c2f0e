"""Write drawn images and videos."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import cv2

from onchip.errors import InputError
from onchip.vision.preprocess import Image
from onchip.writing import write_whole

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream


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
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, image: Image) -> None:
        """Add one BGR frame; all are of the first one's size, cut to even sides."""
        import av

        height, width = (side - side % 2 for side in image.shape[:2])
        try:
            if self._container is None or self._stream is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._container = av.open(str(self._part), "w")
                self._stream = self._container.add_stream("libx264", rate=round(self._rate) or 25)
                self._stream.width, self._stream.height = width, height
                self._stream.pix_fmt = "yuv420p"
                self._stream.options = {"preset": "ultrafast", "crf": "23"}
            frame = av.VideoFrame.from_ndarray(image[:height, :width].copy(), format="bgr24")
            self._container.mux(self._stream.encode(frame))
        except (OSError, av.FFmpegError) as error:
            raise InputError(f"cannot write {self._path}: {error}") from error

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
