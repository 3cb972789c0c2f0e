"""detect."""

import time
from pathlib import Path

import click

from onchip.cli.options import as_json, command
from onchip.cli.output import bars, print_json, print_text
from onchip.detect.detector import Detector
from onchip.detect.pipeline import Behind, ahead
from onchip.detect.save import VideoWriter, save_image
from onchip.detect.sources import Frame, Source, find
from onchip.detections import Detections
from onchip.errors import InputError
from onchip.report import data
from onchip.vision.draw import draw


@command("onchip detect best.onchip clip.mp4 -o seen/")
@click.argument("file", type=Path)
@click.argument("source")
@click.option("-o", "--output", type=Path, help="Folder for drawn images or video.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="The least score that counts.",
)
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1),
    default=0.45,
    show_default=True,
    help="Boxes of one class that overlap more are one.",
)
@as_json
def detect_verb(
    file: Path, source: str, output: Path | None, confidence: float, overlap: float, as_json: bool
) -> None:
    """Find objects with the compiled FILE in SOURCE: an image, folder, glob or video.

    With --json one object per frame is printed, with boxes in pixels of the original image.
    """
    images = find(source)
    if output is not None and output.is_file():
        raise InputError(f"{output} is a file", "name a folder: -o seen/")
    count, objects = 0, 0
    with (
        Detector(file, confidence=confidence, overlap=overlap) as detector,
        bars() as progress,
        _Output(images, output, detector.labels) as out,
    ):
        started = time.perf_counter()
        for frame in ahead(images.frames()):
            found = detector(frame.image)
            out.add(frame, found)
            count, objects = count + 1, objects + len(found)
            _tell(frame, found, detector.labels, images, as_json)
            progress("detect", count, images.total)
    if not as_json:
        spent = time.perf_counter() - started
        place = f", drawn into {output}" if output is not None else ""
        print_text(f"{objects} objects in {count} frames, {count / spent:.1f} per second{place}")


def _tell(
    frame: Frame, found: Detections, labels: tuple[str, ...], images: Source, as_json: bool
) -> None:
    if as_json:
        print_json(data.detections(found, labels, frame.source, frame.number))
    elif not images.video:
        names = ", ".join(f"{labels[label]} {score:.2f}" for _, score, label in found) or "nothing"
        print_text(f"{frame.source}: {names}")


class _Output:
    """Draws and writes behind the detector; one video, or one image each."""

    def __init__(self, images: Source, folder: Path | None, labels: tuple[str, ...]) -> None:
        self._folder, self._labels = folder, labels
        self._video = None
        if folder is not None and images.video:
            self._video = VideoWriter(folder / f"{images.paths[0].stem}.mp4", images.rate)
        self._behind = Behind(self._write)

    def __enter__(self) -> "_Output":
        self._behind.__enter__()
        return self

    def add(self, frame: Frame, found: Detections) -> None:
        """Hand over one frame."""
        if self._folder is not None:
            self._behind((frame, found))

    def _write(self, item: tuple[Frame, Detections]) -> None:
        frame, found = item
        image = draw(frame.image, found, self._labels)
        if self._video is not None:
            self._video.write(image)
        elif self._folder is not None:
            save_image(image, self._folder / f"{frame.source.stem}.jpg")

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            self._behind.__exit__(kind, error, trace)
        finally:
            if self._video is not None:
                self._video.__exit__(kind, None, None)
