"""Trainings and exports, as text and as JSON-ready data."""

import msgspec

from onchip.report.data import Data
from onchip.report.text import size
from onchip.train.export import Exported, Proof
from onchip.train.runs import Trained


def training(made: Trained) -> str:
    """How a training ended, and what to do next."""
    found = made.measures
    epochs = f"{found.epochs} of {found.planned} epochs"
    if found.stopped:
        epochs += " (no better one came)"
    lines = [
        f"{made.best}: mAP50 {found.map50:.3f}, mAP50-95 {found.map50_95:.3f}, "
        f"precision {found.precision:.3f}, recall {found.recall:.3f}",
        f"  {epochs}, {found.seconds:.0f} s; {made.folder}/results.csv and curves beside it",
    ]
    if found.left_out:
        lines.append(f"warning: Ultralytics could not use {found.left_out} of the images")
    return "\n".join([*lines, f"next: onchip export {made.best}"])


def training_data(made: Trained) -> Data:
    """The same for programs."""
    found = made.measures
    return {
        "folder": str(made.folder),
        "best": str(made.best),
        "last": str(made.last),
        "epochs": found.epochs,
        "stopped": found.stopped,
        "map50": found.map50,
        "map50_95": found.map50_95,
        "precision": found.precision,
        "recall": found.recall,
        "seconds": found.seconds,
        "images": found.images,
        "val_images": found.val_images,
        "left_out": found.left_out,
    }


def exported(made: Exported) -> str:
    """What an ONNX file is, and how it was proven."""
    shown = ", ".join(made.head.labels[:6]) + (", …" if len(made.head.labels) > 6 else "")
    lines = [
        f"{made.path}: {size(made.size)}, opset {made.opset}" + ", suppresses by itself" * made.nms,
        f"  head      {made.head.family}, {made.head.classes} classes ({shown})",
        f"  input     {made.input.describe()}",
        *_proof(made.proof, made.nms),
    ]
    lines += [f"failed: {why}" for why in made.proof.failures]
    if made.proof.passed:
        lines.append(f"next: onchip build {made.path} -t cpu -c photos/ (or another chip)")
    return "\n".join(lines)


def _proof(proof: Proof, nms: bool) -> list[str]:
    found = proof.likeness
    edge = f", {found.edge} fall either way by rounding" if found.edge else ""
    images = _count(found.images, "image") if proof.photos else "noise (name images: --data, -c)"
    seen = "nothing is detected there by either"
    if found.detections:
        seen = (
            f"{found.matched} of {found.detections} detections match{edge}; "
            f"box {found.box_px:.1e} px, score {found.score:.1e}"
        )
    lines = [f"  proven    on {images}: {seen}"]
    if not nms:
        lines.append(
            f"  raw       every prediction: box {found.raw_box_px:.1e} px, "
            f"score {found.raw_score:.1e}"
        )
    lines.append(f"  black     {_count(proof.black, 'box')} in a black image")
    if proof.negatives:
        lines.append(
            f"  negatives {proof.false_alarms} of {proof.negatives} images without objects show a "
            "box"
        )
    if proof.black:
        lines.append("warning: it sees things in the dark: train with images that show nothing")
    return lines


def _count(count: int, what: str) -> str:
    more = "es" if what.endswith("x") else "s"
    return f"{count or 'no'} {what}{more * (count > 1)}"


def exported_data(made: Exported) -> Data:
    """The same for programs."""
    proof = made.proof
    return {
        "model": str(made.path),
        "bytes": made.size,
        "opset": made.opset,
        "nms": made.nms,
        "family": made.head.family,
        "labels": list(made.head.labels),
        "input": msgspec.to_builtins(made.input),
        "proof": {
            "images": proof.likeness.images if proof.photos else 0,
            "detections": proof.likeness.detections,
            "matched": proof.likeness.matched,
            "edge": proof.likeness.edge,
            "box_px": proof.likeness.box_px,
            "score": proof.likeness.score,
            "raw_box_px": proof.likeness.raw_box_px,
            "raw_score": proof.likeness.raw_score,
        },
        "black": proof.black,
        "negatives": proof.negatives,
        "false_alarms": proof.false_alarms,
        "passed": proof.passed,
        "failures": list(proof.failures),
    }
