"""Make the ONNX that chips want of a checkpoint, and prove that it sees the same."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onchip.build import Options, cut_model, parse
from onchip.dataset import samples, yolo
from onchip.dataset.samples import Dataset, Sample
from onchip.detect.program import Limits
from onchip.detections import Detections, Floats
from onchip.errors import InputError, UnsupportedError
from onchip.graph import read
from onchip.graph.pixels import ULTRALYTICS
from onchip.graph.read import OPSET
from onchip.graph.run import Runner
from onchip.progress import Progress, silent
from onchip.spec import HeadSpec, InputSpec
from onchip.toolchains.worker import Worker
from onchip.train import checkpoint, likeness, process
from onchip.train.likeness import Likeness
from onchip.train.runs import read_record
from onchip.vision.decode import decode, dense
from onchip.vision.preprocess import prepare, read_image
from onchip.writing import write_whole

MOST = 128  # images that are looked at
USUAL = 640
OLDEST, NEWEST = 11, 19  # opsets that torch writes and every vendor's compiler takes
LIMITS = Limits()
# of what Ultralytics writes; not its dates and paths of this machine
KEPT = {"author", "version", "license", "docs", "stride", "task", "head", "batch", "imgsz", "names"}
KEPT |= {"channels", "end2end", "args"}

Look = Callable[[npt.NDArray[np.float32]], Detections]


@dataclass(frozen=True)
class Export:
    """What to export, and how.

    Args:
        weights: a `.pt` of a detector.
        output: the ONNX file; default: beside the weights.
        size: width and height of the input; default: what it was trained with.
        opset: of the ONNX file.
        nms: put the suppression of overlaps inside.
        trust: the user vouches for the weights.
        threads: of the CPU; 0 is all.
    """

    weights: Path
    output: Path | None = None
    size: tuple[int, int] | None = None
    opset: int = OPSET
    nms: bool = False
    trust: bool = False
    threads: int = 0

    @property
    def place(self) -> Path:
        """Where the ONNX file will be."""
        return self.output or self.weights.with_suffix(".onnx")


@dataclass(frozen=True)
class Proof:
    """That an ONNX file sees what its checkpoint sees, and nothing where nothing is.

    `photos` says whether there were images, and not noise. `black` is how many boxes it finds in a
    black image; of `negatives` images without objects `false_alarms` show a box.
    """

    likeness: Likeness
    photos: bool
    black: int
    negatives: int
    false_alarms: int

    @property
    def failures(self) -> tuple[str, ...]:
        """What is past the gate, in words."""
        return self.likeness.failures()

    @property
    def passed(self) -> bool:
        """Whether nothing is."""
        return not self.failures


@dataclass(frozen=True)
class Exported:
    """An ONNX file and its proof. Where the proof fails, `path` is not the place asked for."""

    path: Path
    input: InputSpec
    head: HeadSpec
    opset: int
    size: int  # bytes
    nms: bool
    proof: Proof


@dataclass(frozen=True)
class _Made:
    """The ONNX file before it has its place, and how to look through it."""

    data: bytes
    input: InputSpec
    head: HeadSpec
    look: Look
    raw: Callable[[npt.NDArray[np.float32]], tuple[Floats, Floats]] | None


def export(
    wanted: Export,
    data: Dataset | None = None,
    *,
    progress: Progress = silent,
) -> Exported:
    """Export a checkpoint and prove the result.

    Args:
        wanted: what to export.
        data: images to prove it on; default: those that the checkpoint was validated on.
        progress: is told how far it is.

    Raises:
        InputError: the file is no checkpoint, or an option is wrong.
        Untrusted: nobody vouches for it; nothing was done yet.
        UnsupportedError: it is no detector that onchip knows.
        ToolError: Ultralytics is missing, or failed.
    """
    _check(wanted)
    seen = checkpoint.look(wanted.weights)
    checkpoint.require_trust(seen, wanted.trust)
    chosen = data if data is not None else usual_images(wanted.weights)
    progress("export", 0, 1)
    with process.start() as worker:
        checkpoint.copied(seen, worker.folder / "weights.pt")
        made = _made(wanted, worker)
        progress("export", 1, 1)
        proof = _proof(made, worker, chosen, wanted.nms, progress)
    place = wanted.place
    if not proof.passed:
        place = place.with_suffix(f".failed{place.suffix}")
    write_whole(place, made.data)
    return Exported(place, made.input, made.head, wanted.opset, len(made.data), wanted.nms, proof)


def usual_images(weights: Path) -> Dataset | None:
    """Return the images that a checkpoint was validated on, where they still are."""
    record = read_record(weights.absolute().parent.parent)
    try:
        return samples.load(Path(record.data)) if record is not None else None
    except InputError:
        return None


def _check(wanted: Export) -> None:
    place = wanted.place
    if place.suffix.lower() != ".onnx":
        raise InputError(f"{place} is no name for an ONNX file", "name one: -o best.onnx")
    if place.is_dir() or not place.parent.is_dir() or not os.access(place.parent, os.W_OK):
        raise InputError(f"cannot write {place}", "choose another place: -o best.onnx")
    if not OLDEST <= wanted.opset <= NEWEST:
        raise InputError(
            f"opset {wanted.opset} is not one that every chip's compiler takes",
            f"allowed are {OLDEST} to {NEWEST}",
        )


def _made(wanted: Export, worker: Worker) -> _Made:
    threads = wanted.threads or os.cpu_count() or 1
    about = worker.call("open", weights="weights.pt", threads=threads)
    if about["channels"] != 3:
        raise UnsupportedError(
            f"{wanted.weights} takes images of {about['channels']} channels", "onchip takes colour"
        )
    width, height = _size(wanted, about)
    limits = _limits(LIMITS) if wanted.nms else None
    name = worker.call("export", size=[height, width], opset=wanted.opset, limits=limits)
    data = _noted(read.load(worker.folder / name).proto)
    path = worker.folder / "noted.onnx"
    path.write_bytes(data)
    parsed = parse(path, "cpu", options=Options())
    spec, head = parsed.manifest.input, parsed.manifest.head
    if wanted.nms:
        return _Made(data, spec, head, _whole(Runner(data, threads)), None)
    cut = Runner(cut_model(parsed).bytes, threads)
    low = likeness.lowered(LIMITS)

    def look(tensor: npt.NDArray[np.float32]) -> Detections:
        return decode(
            head,
            cut(tensor),
            (width, height),
            confidence=low.confidence,
            overlap=low.overlap,
            limit=low.most,
        )

    return _Made(data, spec, head, look, lambda t: dense(head, cut(t), (width, height)))


def _size(wanted: Export, about: dict[str, Any]) -> tuple[int, int]:
    """Return the width and height of the input."""
    trained = about["imgsz"]
    side = trained if isinstance(trained, int) and trained > 0 else USUAL
    width, height = wanted.size or (side, side)
    stride = max(int(about["stride"]), 32)
    if width % stride or height % stride:
        raise InputError(
            f"an input of {width}x{height} does not divide by {stride}",
            f"near is {round(width / stride) * stride}x{round(height / stride) * stride}",
        )
    return width, height


def _whole(runner: Runner) -> Look:
    """Look through a file that suppresses by itself: rows of x1 y1 x2 y2 score class."""

    def look(tensor: npt.NDArray[np.float32]) -> Detections:
        rows = runner.run(tensor)[0][0]
        return _detections(rows[rows[:, 4] > 0])

    return look


def _detections(rows: npt.NDArray[np.float32]) -> Detections:
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))


def _limits(limits: Limits) -> dict[str, float]:
    return {
        "confidence": limits.confidence,
        "overlap": limits.overlap,
        "most": limits.most,
    }


def _noted(proto: onnx.ModelProto) -> bytes:
    """Write into the file how its pixels are prepared, and take out what is of this machine."""
    notes = {p.key: p.value for p in proto.metadata_props if p.key in KEPT}
    given = read.literal(notes.pop("args", "")) or {}
    notes["args"] = str({k: v for k, v in given.items() if k != "data"})
    pixels = ULTRALYTICS
    assert pixels.mean is not None and pixels.std is not None
    notes |= {
        "color": str(pixels.color),
        "mean": ",".join(f"{v:g}" for v in pixels.mean),
        "std": ",".join(f"{v:g}" for v in pixels.std),
        "letterbox": str(pixels.letterbox),
        "pad": str(pixels.pad),
    }
    onnx.helper.set_model_props(proto, notes)
    return bytes(proto.SerializeToString(deterministic=True))


def _proof(
    made: _Made, worker: Worker, data: Dataset | None, nms: bool, progress: Progress
) -> Proof:
    """Look at the same tensors with the checkpoint and with the ONNX file."""
    given = data.samples if data is not None else ()
    shown = _spread(given)
    parts = []
    for done, tensor in enumerate(_tensors(shown, made.input), 1):
        parts.append(_likeness(made, worker, tensor, nms))
        progress("prove", done, len(shown) or 2)
    black = np.zeros((made.input.height, made.input.width, 3), np.uint8)
    empty = _spread([s for s in given if not s.classes and yolo.read(yolo.place(s.path)) == ()])
    alarms = 0
    for done, tensor in enumerate(_tensors(empty, made.input) if empty else (), 1):
        alarms += bool(_clear(made.look(tensor)))
        progress("negatives", done, len(empty))
    found = _clear(made.look(_float(prepare(black, made.input)[0])))
    return Proof(likeness.join(parts), bool(shown), found, len(empty), alarms)


def _likeness(made: _Made, worker: Worker, tensor: npt.NDArray[np.float32], nms: bool) -> Likeness:
    limits = LIMITS if nms else likeness.lowered(LIMITS)
    own, rows = worker.call("see", tensor=tensor, limits=_limits(limits), several=not nms)
    theirs, ours = _detections(rows), made.look(tensor)
    part = likeness.final(theirs, ours, LIMITS)
    if made.raw is None:
        return part
    center, half, scores = own[:2].T, own[2:4].T / 2, own[4:].T
    boxes = np.concatenate([center - half, center + half], axis=1)
    box, score = likeness.raw((boxes, scores), made.raw(tensor))
    raw = Likeness(raw_box_px=box, raw_score=score)
    if part.failures() and not raw.failures():
        again = likeness.suppressed(boxes, scores, limits)
        if not likeness.final(theirs, again, LIMITS).failures():  # the same numbers, the same boxes
            part = likeness.final(theirs, ours, LIMITS, excused=True)
    return replace(part, raw_box_px=box, raw_score=score)


def _spread(found: Sequence[Sample]) -> Sequence[Sample]:
    count = min(len(found), MOST)
    return [found[i * len(found) // count] for i in range(count)]


def _tensors(shown: Sequence[Sample], spec: InputSpec) -> Any:
    """The inputs of images; where there are none, noise."""
    for sample in shown:
        yield _float(prepare(read_image(sample.path), spec)[0])
    for seed in range(0 if shown else 2):
        yield np.random.default_rng(seed).random(spec.shape, np.float32)


def _float(tensor: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(tensor, np.float32)


def _clear(found: Detections) -> int:
    return int((found.scores >= LIMITS.confidence).sum())
