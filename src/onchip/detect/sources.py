"""Where images come from: files, folders, globs and video files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onchip.errors import InputError
from onchip.vision.preprocess import IMAGE_SUFFIXES, Image, find_images, read_image

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".ts", ".mpg"})


@dataclass(frozen=True)
class Frame:
    """One image, where it comes from, and its number there (0 for a photo)."""

    source: Path
    number: int
    image: Image


@dataclass(frozen=True)
class Source:
    """Images to look at. `total` is how many frames there are, 0 where that is not known."""

    paths: tuple[Path, ...]
    video: bool
    total: int
    rate: float = 0.0  # frames per second of a video

    def frames(self) -> Iterator[Frame]:
        """Decode them one by one.

        Raises:
            InputError: one cannot be read.
        """
        if self.video:
            yield from _video(self.paths[0])
            return
        for path in self.paths:
            yield Frame(path, 0, read_image(path))


def find(source: str) -> Source:
    """Return what `source` names: an image, a video, a folder or a glob of images.

    Raises:
        InputError: nothing is there, or it is of another kind.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(path)
    if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(
            f"{path} is neither an image nor a video",
            f"allowed are {', '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}",
        )
    paths = tuple(find_images(source))
    return Source(paths, video=False, total=len(paths))


def _open_video(path: Path) -> Source:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return Source((path,), True, stream.frames, float(stream.average_rate or 25))
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{path} is not a readable video: {error}") from error


def _video(path: Path) -> Iterator[Frame]:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                yield Frame(path, number, frame.to_ndarray(format="bgr24"))
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be decoded: {error}") from error
