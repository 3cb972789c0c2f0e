"""The steps that are about the network: train it, and export it."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import onchip
from onchip.errors import GateError
from onchip.run.ledger import Said
from onchip.run.photos import images, labelled
from onchip.run.way import Way, line

if TYPE_CHECKING:
    from onchip.train.fit import Training


def network(way: Way) -> Path:
    """Return the ONNX file: given, exported from a given .pt, or trained and exported."""
    given = Path(way.project.model) if way.project.model else None
    if given is not None and given.suffix.lower() == ".onnx":
        return given
    if given is not None:
        return _export(way, given)
    return _export(way, _train(way))


def _train(way: Way) -> Path:
    """Train, or go on with a training of the same data and settings that was cut off."""
    from onchip.train.fit import Training, fit
    from onchip.train.runs import state

    given, project = way.project.train, Path(way.project.out) / "detect"
    weights = Path(given.model)
    made_of = [
        way.whole,
        msgspec.to_builtins(way.project.split),
        msgspec.to_builtins(given),
        weights,
    ]
    begun = way.book.begin("train", made_of, {"run": _free_name(project, way.project.name)})
    if _lost(project / str(begun.get("run"))):
        way.book.forget("train begun")
        begun = way.book.begin("train", made_of, {"run": _free_name(project, way.project.name)})
    wanted = Training(
        data=way.found.source,
        model=given.model,
        epochs=given.epochs,
        batch=given.batch,
        imgsz=given.imgsz,
        patience=given.patience,
        name=str(begun["run"]),
        project=project,
        device=given.device,
        seed=given.seed,
        width=given.width,
        trust=way.trust,
        more=given.set,
    )
    wanted = replace(wanted, resume=state(wanted.folder) != "none")
    best, table = wanted.folder / "weights" / "best.pt", wanted.folder / "results.csv"

    def work() -> Said:
        made = fit(wanted, progress=way.progress, each=way.epoch).measures
        return {
            "epochs": made.epochs,
            "mAP50": made.map50,
            "mAP50-95": made.map50_95,
            "images": made.images,
            "left out": made.left_out or None,
        }

    way.book.step("train", made_of, _train_line(wanted), [best, table], work)
    way.results = table
    return best


def _lost(run: Path) -> bool:
    """Whether a training is finished and somebody took its weights away."""
    from onchip.train.runs import state

    return state(run) == "finished" and not (run / "weights" / "best.pt").is_file()


def _train_line(wanted: "Training") -> str:
    words: list[object] = ["train", wanted.data, "--name", wanted.name, "--project", wanted.project]
    words += ["--model", wanted.model]
    for name in ("epochs", "batch", "imgsz", "patience", "seed"):
        words += [f"--{name}", getattr(wanted, name)]
    words += ["--width", wanted.width] if wanted.width else []
    words += ["--device", wanted.device] if wanted.device else []
    for name, value in wanted.more.items():
        words += ["--set", f"{name}={value}"]
    return line(*words)


def _free_name(folder: Path, name: str) -> str:
    """A training that is there already stays as it is."""
    numbers = itertools.count(2)
    free = name
    while (folder / free).exists():
        free = f"{name}-{next(numbers)}"
    return free


def _export(way: Way, weights: Path) -> Path:
    from onchip.train.export import Export, export

    wanted, place = way.project.export, way.place(f"{way.project.name}.onnx")
    chosen = Export(weights, place, trust=way.trust)
    if wanted.imgsz:
        chosen = replace(chosen, size=(wanted.imgsz, wanted.imgsz))
    if wanted.opset:
        chosen = replace(chosen, opset=wanted.opset)
    words: list[object] = ["export", weights, "-o", place, "--opset", chosen.opset]
    words += ["--imgsz", wanted.imgsz] if wanted.imgsz else []
    words += ["--data", way.found.notes] if labelled(way, "val") else ["-c", way.found.source]

    def work() -> Said:
        data, _ = images(way, "val", 0)
        made = export(chosen, data, progress=way.progress)
        if not made.proof.passed:
            raise GateError(
                f"{weights} and its ONNX do not see the same: {made.proof.failures[0]}",
                f"the file is kept at {made.path}",
            )
        proof = made.proof
        return {
            "opset": made.opset,
            "images": proof.likeness.images,
            "boxes on black": proof.black,
            "false alarms": f"{proof.false_alarms} of {proof.negatives}",
        }

    made_of: list[object] = [onchip.__version__, weights, chosen.size, chosen.opset]
    made_of += [way.whole, way.found.splits]  # it is proven on the photos
    way.book.step("export", made_of, line(*words), [place], work)
    return place
