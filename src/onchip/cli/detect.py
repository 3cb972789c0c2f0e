"""detect."""

import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import click
import numpy as np

from onchip.cli.options import as_json, command, names
from onchip.cli.output import bars, print_json, print_text
from onchip.cli.stopping import Stop, stopping
from onchip.detect.live import Seen
from onchip.detect.pipeline import ahead
from onchip.detect.program import Limits
from onchip.detect.save import Drawings, VideoWriter
from onchip.detect.sources import Frame, Live, Photos, Source, find
from onchip.detect.window import Window, screen
from onchip.detections import Detections
from onchip.errors import InputError
from onchip.report import data
from onchip.several import each
from onchip.sight import Sight, open_sight
from onchip.vision.draw import draw

SPARE = 2  # frames of a clip that lie ready for the next free worker


@command("onchip detect best.onchip rtsp://camera/stream1 --classes person -o seen/")
@click.argument("file", type=Path)
@click.argument("source")
@click.option("-o", "--output", type=Path, help="Folder for drawn images or video.")
@click.option(
    "--confidence",
    "--conf",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="The least score that counts.",
)
@click.option(
    "--overlap",
    "--iou",
    type=click.FloatRange(0, 1),
    default=0.45,
    show_default=True,
    help="Boxes of one class that overlap more are one.",
)
@click.option("--classes", help="Only these, by name or number: person,car")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Look for so long.")
@click.option("--headless", is_flag=True, help="No window for a camera, even with a screen.")
@as_json
def detect_verb(
    file: Path,
    source: str,
    output: Path | None,
    confidence: float,
    overlap: float,
    classes: str | None,
    seconds: float | None,
    headless: bool,
    as_json: bool,
) -> None:
    """Find objects with FILE, an .onchip or .onnx, in SOURCE.

    SOURCE is an image, a folder or glob of images, a video, or a camera: rtsp://…, http://…, usb:0,
    /dev/video0, picamera:0. Of a video every frame counts, of a camera the latest; Ctrl-C ends it.

    With --json one object per frame is printed, with boxes in pixels of the original image.
    """
    images = find(source, _tell_camera)
    if output is not None and output.is_file():
        raise InputError(f"{output} is a file", "name a folder: -o seen/")
    many = not images.live and images.total != 1
    hints = images.paths[:8] if isinstance(images, Photos) else ()
    with stopping() as stop, ExitStack() as opened:
        limits = Limits(confidence, overlap)
        sight = opened.enter_context(
            open_sight(file, hints, limits=limits, threads=1 if many else 0)
        )
        window = None
        if isinstance(images, Live) and not (output or headless or as_json) and screen():
            window = opened.enter_context(Window(images.place.shown))
        drawings = None
        if output is not None:
            drawings = opened.enter_context(_drawings(images, output, sight.labels))
        progress = opened.enter_context(bars())
        frames = opened.enter_context(closing(_frames(images, seconds, stop)))
        look = partial(_look, sight, _chosen(classes, sight.labels))
        count, objects, started = 0, 0, time.perf_counter()
        spare = 0 if images.live else SPARE
        with closing(each(look, frames, sight.depth, sight.depth + spare)) as seen:
            for frame, found in seen:
                count, objects = count + 1, objects + len(found)
                _tell(frame, found, sight.labels, images, as_json)
                progress("detect", count, images.total)
                if drawings is not None:
                    drawings.add(frame, found)
                if window is not None:
                    window.show(draw(frame.image, found, sight.labels))
                    if not window.open:
                        break
        spent = time.perf_counter() - started
    if not as_json:
        place = f", drawn into {output}" if output is not None else ""
        print_text(f"{objects} objects in {count} frames, {count / spent:.1f} per second{place}")


def _frames(images: Source, seconds: float | None, stop: Stop) -> Generator[Frame]:
    """Yield the frames until enough were seen, or an end is asked for.

    Raises:
        KeyboardInterrupt: it is asked for before the last of them. A camera ends in no other way:
            what was drawn until then is kept.
    """
    frames = images.frames(stop) if isinstance(images, Live) else ahead(images.frames())
    with closing(frames):
        for frame in frames:
            if stop() and not images.live:
                raise KeyboardInterrupt
            if stop() or (seconds is not None and frame.seconds >= seconds):
                return
            yield frame


def _look(sight: Sight, chosen: tuple[int, ...] | None, frame: Frame) -> tuple[Frame, Detections]:
    found = sight(frame.image)
    return frame, found if chosen is None else found[np.isin(found.classes, chosen)]


def _chosen(classes: str | None, labels: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the numbers of the classes that were asked for; None for all."""
    if classes is None:
        return None
    wanted = names(classes)
    if not wanted:
        raise InputError("--classes names none", "as in --classes person,car")
    known = {label: number for number, label in enumerate(labels)}
    known |= {str(number): number for number in range(len(labels))} | known
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(
            f"the model knows no class {unknown[0]!r}", f"it knows {', '.join(labels)[:300]}"
        )
    return tuple(known[name] for name in wanted)


def _drawings(images: Source, folder: Path, labels: tuple[str, ...]) -> Drawings:
    if isinstance(images, Photos):
        return Drawings(folder, labels, None)
    name = images.path.stem if not isinstance(images, Live) else time.strftime("%Y%m%d-%H%M%S")
    return Drawings(folder, labels, VideoWriter(folder / f"{name}.mp4", images.rate))


def _tell_camera(seen: Seen) -> None:
    """Say on stderr when a camera is lost, and when it is back."""
    if seen.error is not None and seen.retry is not None:
        wait = max(0.0, seen.retry - time.monotonic())
        sys.stderr.write(f"{seen.error}; trying again in {wait:.0f} s\n")
    elif seen.state == "live":
        sys.stderr.write("the camera is back\n")


def _tell(
    frame: Frame, found: Detections, labels: tuple[str, ...], images: Source, as_json: bool
) -> None:
    if as_json:
        print_json(data.detections(found, labels, frame.source, frame.number))
    elif not images.moving:
        listed = ", ".join(f"{labels[label]} {score:.2f}" for _, score, label in found) or "nothing"
        print_text(f"{frame.source}: {listed}")
