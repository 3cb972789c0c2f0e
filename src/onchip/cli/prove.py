"""verify, eval, bench."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onchip.artifact import load
from onchip.cli.options import as_json, command
from onchip.cli.output import bars, print_json, print_text
from onchip.dataset import samples
from onchip.dataset.samples import Dataset
from onchip.detect.detector import Detector
from onchip.detect.program import FOR_ACCURACY
from onchip.errors import InputError
from onchip.measure import frigate
from onchip.measure.evaluate import evaluate
from onchip.measure.latency import latency
from onchip.measure.proof import Gate
from onchip.report import data as as_data
from onchip.report import text
from onchip.sampling import some
from onchip.targets.published import published
from onchip.vision.preprocess import find_images

_data = click.option("--data", type=Path, help="A data.yaml with labelled images.")
_split = click.option("--split", default="val", show_default=True, help="Which part of it.")


def labelled_images(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a verb that takes labelled images."""
    return _data(_split(function))


unlabelled_images = click.option("-c", "--photos", help="Images without labels, instead of --data.")
min_match = click.option(
    "--min-match",
    type=click.FloatRange(0, 1),
    default=Gate.min_match,
    show_default=True,
    help="Gate: the least share of detections that must match.",
)
_images = click.option("--images", type=click.IntRange(0), default=0, help="At most so many.")


@command("onchip verify best.onchip --data data.yaml --report proof.html")
@click.argument("file", type=Path)
@labelled_images
@unlabelled_images
@_images
@click.option(
    "--max-drop",
    type=float,
    default=Gate.max_drop,
    show_default=True,
    help="Gate: the most points of mAP50-95 to lose.",
)
@min_match
@click.option("--report", type=Path, help="Write an HTML page with pictures here.")
@as_json
def verify_verb(file: Path, as_json: bool, report: Path | None, **given: Any) -> int:
    """Run the same images through every stage of FILE and show what each loses.

    Leaves with exit code 1 if the build is past the gate, and names the likely cause.
    """
    from onchip.verify import verify

    artifact = load(file)
    data, labelled = dataset(given, artifact.manifest.head.labels)
    gate = Gate(given["max_drop"], given["min_match"])
    with bars() as progress:
        proof = verify(artifact, data, labelled=labelled, gate=gate, progress=progress)
    if as_json:
        print_json(as_data.proof(proof))
    else:
        print_text(text.proof(proof))
    if report is not None:
        from onchip.report.document import write
        from onchip.report.html import page

        write(page(artifact, proof), report)
    return 0 if proof.passed else 1


@command("onchip eval best.onchip --data data.yaml")
@click.argument("file", type=Path)
@labelled_images
@_images
@click.option(
    "--as-frigate", is_flag=True, help="As Frigate's own decode reads its outputs, beside onchip's."
)
@as_json
def eval_verb(file: Path, as_json: bool, as_frigate: bool, **given: Any) -> None:
    """Measure COCO mAP of the compiled FILE on labelled images, with its interval."""
    if given["data"] is None:
        raise InputError("no labelled images", "name a data.yaml: --data data.yaml")
    artifact = load(file)
    if as_frigate:
        data, _ = dataset(given, artifact.manifest.head.labels)
        with bars() as progress:
            read = frigate.as_frigate(artifact, data, progress=progress)
        print_json(as_data.as_frigate(read)) if as_json else print_text(text.as_frigate(read))
        return
    seen = {"confidence": FOR_ACCURACY.confidence, "overlap": FOR_ACCURACY.overlap}
    with Detector(artifact, threads=1, **seen) as detector:
        data, _ = dataset(given, detector.labels)
        parallel = detector.session.parallel
        with bars() as progress:
            found = evaluate(
                detector.program,
                data,
                parallel=parallel,
                progress=lambda done: progress("eval", done, len(data.samples)),
            )
    print_json(as_data.accuracy(found)) if as_json else print_text(text.accuracy(found))


@command("onchip bench best.onchip -c photos/")
@click.argument("file", type=Path)
@click.option("-c", "--photos", required=True, help="Images to run on.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="How long to measure.",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0 is all.")
@as_json
def bench_verb(file: Path, photos: str, seconds: float, threads: int, as_json: bool) -> None:
    """Time the compiled FILE: percentiles, and how much is decoding, inference and the rest."""
    paths = find_images(photos)
    artifact = load(file)
    known, spec = artifact.manifest.cost, artifact.manifest.input
    with Detector(artifact, threads=threads) as detector, bars() as progress:
        found = latency(
            detector.program,
            paths,
            seconds=seconds,
            progress=lambda part: progress("bench", round(100 * part), 100),
        )
    size = (spec.width, spec.height)
    beside = published(artifact.manifest.target, size, known) if known is not None else None
    if as_json:
        print_json(as_data.latency(found, beside))
    else:
        print_text(text.latency(found, beside))


def dataset(given: dict[str, Any], labels: tuple[str, ...]) -> tuple[Dataset, bool]:
    """Return the images that were asked for, and whether they have labels."""
    if given["data"] is not None:
        whole = samples.load(given["data"], given["split"])
        return Dataset(tuple(some(whole.samples, given["images"])), whole.labels), True
    if not given["photos"]:
        raise InputError(
            "no images to verify on", "name --data data.yaml, or photos without labels: -c photos/"
        )
    paths = some(find_images(given["photos"]), given["images"])
    return samples.unlabelled(paths, labels), False
