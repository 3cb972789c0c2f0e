"""Train a detector through Ultralytics: what is wanted goes in, weights and measures come out.

The trainer sees a copy of the data set made of links, in a folder that goes with its process: the
images as they are, the labels as onchip reads them. So nothing is written beside anybody's photos,
and nothing that lies there is loaded.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace
from platformdirs import user_cache_path

import onchip
from onchip.dataset import folders, samples, yolo
from onchip.dataset.samples import Dataset, Sample
from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.progress import Progress, silent
from onchip.toolchains.worker import Worker
from onchip.train import checkpoint, process
from onchip.train.checkpoint import Checkpoint
from onchip.train.runs import (
    Epoch,
    Measures,
    Record,
    Trained,
    Value,
    read_record,
    results,
    state,
    write_record,
)
from onchip.writing import alone, write_whole

LOG = "train.log"
NAME = re.compile(r"\w[\w.+-]{0,99}")
UNUSUAL = re.compile(r"[^A-Za-z0-9_-]")
DECIDED = {  # settings of Ultralytics that have an option here, or that onchip decides
    *("model", "data", "epochs", "batch", "imgsz", "patience", "name", "project", "device", "seed"),
    *("resume", "task", "mode", "exist_ok", "save", "save_dir", "cfg", "pretrained", "verbose"),
    *("distill_model", "source", "split", "quantize", "augmentations"),
}


@dataclass(frozen=True)
class Training:
    """What to train, and on what.

    Args:
        data: a data.yaml with images for training and for validation, or the folder of one.
        model: weights to begin with: a `.pt` file, or a name that Ultralytics fetches; or a `.yaml`
            of Ultralytics', such as yolov8n.yaml, to begin with nothing.
        epochs: the most that are trained.
        batch: images per step.
        imgsz: the side of the square that the network sees, in pixels.
        patience: epochs without a better mAP after which training ends.
        name: of the run.
        project: the folder of runs.
        device: as Ultralytics names it: cpu, 0, mps; empty is the best there is.
        seed: of all that is random.
        threads: of the CPU; 0 is all.
        width: of a network that begins with nothing, where it is not the model's own (0).
        depth: likewise.
        resume: go on with the run of that name, with the settings that it began with.
        trust: the user vouches for a `.pt`.
        more: further settings of Ultralytics, by its own names.
    """

    data: Path
    model: str = "yolov8n.pt"
    epochs: int = 200
    batch: int = 16
    imgsz: int = 640
    patience: int = 15
    name: str = "train"
    project: Path = Path("runs/detect")
    device: str = ""
    seed: int = 0
    threads: int = 0
    width: float = 0.0
    depth: float = 0.0
    resume: bool = False
    trust: bool = False
    more: Mapping[str, Value] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return self.project / self.name


def fit(
    wanted: Training,
    *,
    progress: Progress = silent,
    each: Callable[[Epoch, int], None] = lambda epoch, planned: None,
) -> Trained:
    """Train a detector.

    Args:
        wanted: what to train.
        progress: is told how far it is: "data", "batches" of the running epoch, "epochs".
        each: is told of each epoch that is done, and how many are planned.

    Raises:
        InputError: the data set, a name or a setting is wrong; a run of that name is there.
        Untrusted: nobody vouches for the weights to begin with; nothing was done yet.
        UnsupportedError: the weights are no detector's.
        ToolError: Ultralytics is missing, or failed; the log is in the run's folder.
    """
    _check(wanted)
    folder, record = wanted.folder, read_record(wanted.folder)
    resume = _begin(wanted, record)
    if resume and record is not None and record.measures is not None:
        return Trained(folder, record.measures)
    kept = _weights(wanted, resume)
    data, parts = _parts(wanted.data)
    labels = parts["train"].labels
    if resume and record is not None and record.labels != labels:
        raise InputError(
            f"{folder} was trained for other classes: {', '.join(record.labels)}",
            "name the data.yaml that it was trained on, or begin another with --name",
        )
    given = record.settings if resume and record is not None else _settings(wanted)
    record = Record(onchip=onchip.__version__, data=str(data), labels=labels, settings=given)
    with process.start() as worker, ExitStack() as held:
        for name, seen in kept.items():
            checkpoint.copied(seen, worker.folder / name)
        network = "weights.pt" if kept else _network(wanted.model)
        if not resume:
            problem = worker.call(
                "check",
                model=network,
                scaled=bool(wanted.width or wanted.depth),
                settings=dict(given),
            )
            if problem:
                raise InputError(*problem)
        held.enter_context(alone(folder))
        write_record(folder, record)
        staged = _staged(parts, worker.folder / "data", progress)
        settings = {**given, "data": str(staged)}
        network = "last.pt" if resume else network
        measures = _train(wanted, worker, network, settings, progress, each)
    images = sum(len(p.samples) for p in parts.values())
    left_out = images - measures.images - measures.val_images if measures.images else 0
    measures = replace(measures, left_out=left_out)
    write_record(folder, replace(record, measures=measures))
    return Trained(folder, measures)


def _check(wanted: Training) -> None:
    if not NAME.fullmatch(wanted.name):
        raise InputError(
            f"{wanted.name!r} is no name for a run", "allowed are letters, digits, - _ + and ."
        )
    if "'" in str(wanted.folder.absolute()):
        raise InputError(
            f"Ultralytics cannot read a path with an apostrophe: {wanted.folder.absolute()}",
            "choose another folder: --project",
        )
    if "," in wanted.device:
        raise UnsupportedError(
            f"onchip trains on one device, not on {wanted.device}", "name one: --device 0"
        )
    least = {"epochs": 1, "batch": 1, "imgsz": 32, "patience": 0, "seed": 0, "threads": 0}
    for name, low in least.items():
        if getattr(wanted, name) < low:
            raise InputError(f"{name} is {getattr(wanted, name)}", f"allowed is {low} and more")
    if wanted.imgsz % 32:
        raise InputError(
            f"an image size of {wanted.imgsz} does not divide by 32",
            f"near are {wanted.imgsz // 32 * 32} and {wanted.imgsz // 32 * 32 + 32}",
        )
    if (wanted.width or wanted.depth) and not wanted.model.endswith((".yaml", ".yml")):
        raise InputError(
            f"weights have the width and depth that they have: {wanted.model}",
            "another one begins with nothing: --model yolov8n.yaml",
        )
    if taken := sorted(DECIDED & set(wanted.more)):
        raise InputError(
            f"{taken[0]} is no further setting: onchip has an option for it, or decides it",
            "see: onchip train --help",
        )


def _begin(wanted: Training, record: Record | None) -> bool:
    """Whether there is a run to go on with; whatever else is there is never written over."""
    folder, found = wanted.folder, state(wanted.folder)
    if wanted.resume:
        if found == "none":
            raise InputError(f"{folder} has nothing to resume", "leave --resume away")
        return True
    other = "or choose another name: --name NAME"
    if found == "finished":
        raise InputError(f"{folder} holds a finished training", other[3:])
    if found == "begun":
        raise InputError(
            f"{folder} holds a training that was cut off", f"go on with it: --resume, {other}"
        )
    if folder.exists() and record is None and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no training of onchip's", other[3:])
    return False


def _parts(given: Path) -> tuple[Path, dict[str, Dataset]]:
    """Return the data.yaml, and what it has for training and for validation."""
    path = given
    if given.is_dir():
        path = next((given / n for n in folders.NOTES if (given / n).is_file()), given)
        if path == given:
            raise InputError(
                f"{given} has no data.yaml", "onchip dataset split writes one for photos and labels"
            )
    notes = folders.read_notes(path)
    for part in ("train", "val"):
        if not notes.get(part):
            raise InputError(
                f"{path} names no {part} images",
                f"add a line like  {part}: images/{part}, or let onchip dataset split do it",
            )
    return path.absolute(), {part: samples.load(path, part) for part in ("train", "val")}


def _weights(wanted: Training, resume: bool) -> dict[str, Checkpoint]:
    """Return the checkpoints that will be loaded, looked into and trusted, by their new names."""
    if resume:
        paths = {n: wanted.folder / "weights" / n for n in ("last.pt", "best.pt")}
    elif wanted.model.endswith((".yaml", ".yml")):
        return {}
    else:
        path = Path(wanted.model)
        if not path.is_file():
            return {"weights.pt": _fetched(wanted.model)}
        paths = {"weights.pt": path}
    found = {n: checkpoint.look(p) for n, p in paths.items() if p.is_file()}
    for seen in found.values():
        checkpoint.require_trust(seen, wanted.trust)
    return found


def _fetched(name: str) -> Checkpoint:
    """Return Ultralytics' own weights of a name, from an earlier time or from its releases."""
    here = "name a .pt that you have: --model FILE.pt, or begin with nothing: --model yolov8n.yaml"
    if not re.fullmatch(r"[\w.-]+\.pt", name):
        raise InputError(f"{name} does not exist", here)
    kept = user_cache_path("onchip") / "weights" / name
    if not kept.is_file():
        with process.start(online=True) as worker:
            try:
                known = worker.call("fetch", name=name)
            except ToolError as error:
                raise InputError(f"{name} is not here and cannot be fetched", here) from error
            if not known:
                raise InputError(f"{name} is not here, and Ultralytics has no such weights", here)
            checkpoint.look(worker.folder / name)
            write_whole(kept, (worker.folder / name).read_bytes())
    return checkpoint.look(kept)


def _settings(wanted: Training) -> dict[str, Value]:
    return {
        "epochs": wanted.epochs,
        "batch": wanted.batch,
        "imgsz": wanted.imgsz,
        "patience": wanted.patience,
        "seed": wanted.seed,
        "device": wanted.device or None,
        **wanted.more,
    }


def _staged(parts: Mapping[str, Dataset], place: Path, progress: Progress) -> Path:
    """Lay a data set out as Ultralytics wants it, the images as links, and return its data.yaml."""
    import yaml

    total, done = sum(len(p.samples) for p in parts.values()), 0
    for part, data in parts.items():
        for kind in ("images", "labels"):
            (place / kind / part).mkdir(parents=True)
        for number, sample in enumerate(data.samples):
            _link(sample, place, part, number)
            done += 1
            if done % 256 == 0:
                progress("data", done, total)
    progress("data", total, total)
    names = dict(enumerate(parts["train"].labels))
    notes = {"path": str(place), "train": "images/train", "val": "images/val", "names": names}
    (place / "data.yaml").write_text(yaml.safe_dump(notes))
    return place / "data.yaml"


def _link(sample: Sample, place: Path, part: str, number: int) -> None:
    # names may be the same in two folders, too long, or no text
    name = f"{number:06}-{UNUSUAL.sub('_', sample.path.stem)[:40]}"
    (place / "images" / part / f"{name}{sample.path.suffix.lower()}").symlink_to(
        sample.path.absolute()
    )
    rows = zip(sample.classes, sample.boxes.tolist(), strict=True)
    text = "".join(f"{yolo.text(yolo.Label(index, tuple(box)))}\n" for index, box in rows)
    (place / "labels" / part / f"{name}.txt").write_text(text)


def _train(
    wanted: Training,
    worker: Worker,
    network: str,
    settings: Mapping[str, Value],
    progress: Progress,
    each: Callable[[Epoch, int], None],
) -> Measures:
    folder = wanted.folder.absolute()
    began_with = settings.get("epochs")  # where it was resumed
    planned = began_with if isinstance(began_with, int) else wanted.epochs

    def told(what: str, done: int, total: int) -> None:
        nonlocal planned
        progress(what, done, total)
        if what == "epochs" and (rows := _rows(folder)):
            planned = total
            each(rows[-1], total)

    try:
        found = worker.call(
            "train",
            limit=float("inf"),
            progress=told,
            model=network,
            scale=[wanted.width, wanted.depth],
            folder=str(folder),
            settings=settings,
            resume=wanted.resume,
            threads=wanted.threads or os.cpu_count() or 1,
        )
        _keep_log(folder, worker.log)
    except ToolError as error:
        _keep_log(folder, error.log)
        raise _explained(error, wanted.folder) from error
    finally:
        _tidy(folder)
    rows = _rows(folder)
    return Measures(
        epochs=rows[-1].number if rows else 0,
        planned=planned,
        seconds=round(worker.seconds, 1),
        **{n: round(found[n], 5) for n in ("map50", "map50_95", "precision", "recall")},
        images=int(found.get("images", 0)),
        val_images=int(found.get("val_images", 0)),
    )


def _network(model: str) -> str:
    """A .yaml of the user's own is named from where the user is; others are Ultralytics' own."""
    return str(Path(model).absolute()) if Path(model).is_file() else model


def _rows(folder: Path) -> tuple[Epoch, ...]:
    try:
        return results(folder / "results.csv")
    except InputError:  # it is of no use before the first epoch is done
        return ()


def _keep_log(folder: Path, text: str) -> None:
    with suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(text)


def _tidy(folder: Path) -> None:
    """Remove what was not finished, and note the checkpoints as onchip's own."""
    for part in (folder / "weights").glob("*.part"):
        part.unlink(missing_ok=True)
    checkpoint.remember(folder / "weights" / "last.pt", folder / "weights" / "best.pt")


REASONS = {  # what the error says: what to do
    "out of memory": "make the steps smaller: --batch 8, or --imgsz 320",
    "No space left": "make room there",
    "NaN": "learn more slowly (--set optimizer=AdamW --set lr0=0.001), and check the labels: "
    "onchip dataset check",
    "Invalid CUDA": "name another device: --device cpu",
}


def _explained(error: ToolError, folder: Path) -> ToolError:
    """Add what to do, where the log is, and what is not lost."""
    text = str(error)
    hints = [hint for reason, hint in REASONS.items() if reason.lower() in text.lower()]
    if state(folder) == "begun":
        hints.append("the epochs that were done are not lost: --resume")
    told = ToolError(text, "; ".join([*hints, f"its log: {folder / LOG}"]))
    told.log = error.log
    return told
