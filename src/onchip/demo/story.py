"""The story of `onchip demo`: a sound build that is proven, and a broken one that is caught."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from onchip.artifact import Artifact, save
from onchip.build import Options, build
from onchip.dataset import samples
from onchip.demo.scenes import write
from onchip.detect.save import save_image
from onchip.graph.pixels import Pixels
from onchip.graph.read import load
from onchip.measure.proof import Example, Proof
from onchip.progress import Progress, silent
from onchip.report import html, text
from onchip.report.document import write as write_page
from onchip.verify import verify
from onchip.vision.draw import draw
from onchip.vision.preprocess import Image, find_images, read_image

CALIBRATION, VALIDATION = 48, 48
TRAIN_SEED, VAL_SEED = 800_000, 900_000
PICTURES = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Story:
    """What the demo left: both artifacts with their proofs, in `folder`."""

    folder: Path
    good: Proof
    broken: Proof


def tell(folder: Path, say: Say, progress: Progress = silent) -> Story:
    """Build, prove, break and catch, and leave pictures and reports in `folder`.

    Raises:
        InputError: the folder cannot be written.
    """
    say("A small detector, trained by this project on street scenes that it draws itself.")
    scenes = folder / "scenes"
    write(scenes, CALIBRATION, TRAIN_SEED, "train")
    notes = write(scenes, VALIDATION, VAL_SEED, "val")
    with as_file(files("onchip.demo") / "detector.onnx") as bundled:
        model = folder / "detector.onnx"
        model.write_bytes(bundled.read_bytes())
    photos = find_images(scenes / "images" / "train")

    say("\n1. Build it for this CPU in INT8, calibrated on 48 scenes:\n")
    good = build(model, "cpu", photos, progress=progress)
    save(good, folder / "detector.onchip")
    say(text.artifact(good, str(folder / "detector.onchip")))

    say("\n2. Prove it: the same 48 other scenes through every stage.\n")
    good_proof = verify(good, samples.load(notes), labelled=True, progress=progress)
    say(text.proof(good_proof))
    _leave(folder, "good", good, good_proof)

    say(
        "\n3. Now the mistakes that cost days elsewhere: the picture stretched instead of "
        "letterboxed,\n   blue for red, and the network quantized with its decoding, so that "
        "boxes and scores\n   share one scale. It compiles all the same:\n"
    )
    broken = build(model, "cpu", photos, options=_mistakes(model), progress=progress)
    save(broken, folder / "broken.onchip")
    say(text.artifact(broken, str(folder / "broken.onchip")))

    say("\n4. The proof catches it and names the causes:\n")
    broken_proof = verify(broken, samples.load(notes), labelled=True, progress=progress)
    say(text.proof(broken_proof))
    _leave(folder, "broken", broken, broken_proof)
    say(
        f"\nPictures and reports: {folder}/good.html, {folder}/broken.html, {folder}/good.jpg\n"
        "Your own: onchip build best.onnx -t cpu -c photos/ -o best.onchip"
    )
    return Story(folder, good_proof, broken_proof)


def _mistakes(model: Path) -> Options:
    """The options that make the broken build: wrong pixels, and no cut before the decoding."""
    last = load(model).proto.graph.node[-1].name
    return Options(pixels=Pixels(color="bgr", letterbox="stretch"), end_nodes=(last,))


def _leave(folder: Path, name: str, made: Artifact, proof: Proof) -> None:
    write_page(html.page(made, proof), folder / f"{name}.html")
    labels = made.manifest.head.labels
    rows = [_pair(e, labels) for e in _wide(proof)]
    save_image(np.concatenate(rows), folder / f"{name}.jpg")


def _wide(proof: Proof) -> list[Example]:
    """Landscape scenes of one size with most to see, so that they stack."""
    found = sorted(proof.examples, key=lambda e: -len(e.first))
    images = {e.path: read_image(e.path).shape for e in found}
    wide = [e for e in found if images[e.path][1] == 640]
    return (wide or found[:1])[:PICTURES]


def _pair(example: Example, labels: tuple[str, ...]) -> Image:
    image = read_image(example.path)
    first, last = draw(image, example.first, labels), draw(image, example.last, labels)
    gap = np.full((image.shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([first, gap, last], axis=1)
