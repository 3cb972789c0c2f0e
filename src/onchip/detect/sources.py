"""Where images come from: photos, clips and cameras."""

import os
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onchip.detect.live import Camera, Latest, Seen
from onchip.detect.lost import LostError
from onchip.detect.picture import Picture, bgr
from onchip.detect.place import Place, place
from onchip.errors import InputError
from onchip.vision.preprocess import IMAGE_SUFFIXES, Image, find_images, read_image

_CAMERA = re.compile(r"(?i)[a-z]{2,}:/|usb:|picamera:|/dev/video")
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".ts", ".mpg"})


@dataclass(frozen=True)
class Frame:
    """One image, where it comes from, and its number there (0 for a photo).

    `name` is where its drawing belongs below a folder, without a suffix; `seconds` when it was in
    a clip or since a camera was opened.
    """

    source: str
    number: int
    image: Image
    name: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Photos:
    """Image files."""

    paths: tuple[Path, ...]
    moving: ClassVar[bool] = False
    live: ClassVar[bool] = False

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.paths)

    def frames(self) -> Generator[Frame]:
        """Read them one by one.

        Raises:
            InputError: one cannot be read.
        """
        top = os.path.commonpath([path.parent for path in self.paths])
        for path in self.paths:
            name = Path(os.path.relpath(path, top)).with_suffix("")
            yield Frame(str(path), 0, read_image(path), str(name))


@dataclass(frozen=True)
class Clip:
    """A video file: every frame counts. `total` is 0 where it does not say."""

    path: Path
    total: int
    rate: float  # frames per second
    moving: ClassVar[bool] = True
    live: ClassVar[bool] = False

    def frames(self) -> Generator[Frame]:
        """Decode them one by one.

        Raises:
            InputError: the file cannot be decoded.
        """
        import av

        name = self.path.stem
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for number, frame in enumerate(container.decode(stream)):
                    yield Frame(str(self.path), number, bgr(frame), name, number / self.rate)
        except av.FFmpegError as error:
            raise InputError(f"{self.path} cannot be decoded: {error}") from error


@dataclass(frozen=True)
class Live:
    """A camera: the latest frame counts, and those that came while nobody looked are left out.

    `tell` is told when it is lost, and found again.
    """

    place: Place
    tell: Callable[[Seen], None] = lambda seen: None
    total: ClassVar[int] = 0
    rate: ClassVar[float] = 30.0
    moving: ClassVar[bool] = True
    live: ClassVar[bool] = True

    def frames(self, ended: Callable[[], bool] = lambda: False) -> Generator[Frame]:
        """Yield the latest frame, again and again; a camera that is lost is taken up again.

        Args:
            ended: whether to end; asked before each frame, and now and then while none comes.

        Raises:
            LostError: it cannot be reached to begin with.
        """
        latest: Latest[Picture | LostError] = Latest()
        first: float | None = None

        def told(seen: Seen) -> None:
            if first is None and seen.error is not None:
                latest.put(seen.error)
            elif first is not None:
                self.tell(seen)

        with Camera(self.place, latest.put, tell=told) as camera:
            camera.start()
            while not ended():
                found = latest.get(timeout=0.2)
                if isinstance(found, LostError):
                    raise found
                if found is not None:
                    first = found.at if first is None else first
                    seconds = found.at - first
                    yield Frame(self.place.shown, found.number, found.bgr(), "camera", seconds)


Source = Photos | Clip | Live


def find(source: str, tell: Callable[[Seen], None] = lambda seen: None) -> Source:
    """Return what `source` names: an image, a folder or glob of images, a clip, or a camera.

    Args:
        source: a path, a glob or an address.
        tell: is told when a camera is lost, and found again.

    Raises:
        InputError: nothing is there, or it is of another kind.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return _clip(path)
    if _CAMERA.match(source) and not path.is_file():
        return Live(place(source), tell)
    if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(
            f"{path} is neither an image nor a video",
            f"allowed are {', '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}",
        )
    return Photos(tuple(find_images(source)))


def _clip(path: Path) -> Clip:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return Clip(path, stream.frames, float(stream.average_rate or 25))
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{path} is not a readable video: {error}") from error
