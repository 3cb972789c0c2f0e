"""Write what Frigate must be told of a model: its configuration, the model file and the labels."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onchip import __version__
from onchip.artifact import Artifact
from onchip.device.frigate.check import judge
from onchip.device.frigate.model import FrigateModel, frigate_model
from onchip.device.frigate.network import program
from onchip.device.frigate.serve import ENDPOINT, beyond
from onchip.device.frigate.setup import PREFIX, Finding, parse
from onchip.device.frigate.versions import Kind, Version, table, version
from onchip.errors import InputError, UnsupportedError
from onchip.writing import write_whole

FOLDER = "onchip"  # beside Frigate's config.yml
SERVED = "zmq"
PATIENCE = 1000  # ms for an answer of onchip frigate serve; Frigate's 200 are few for a busy board
ALONE = "mqtt: {enabled: false}\ncameras: {a: {ffmpeg: {inputs: [{path: a, roles: [detect]}]}}}\n"


@dataclass(frozen=True)
class Written:
    """A configuration to paste, the files that it names, and what will not work all the same."""

    yaml: str
    files: Mapping[str, bytes]
    detector: str
    version: str
    findings: tuple[Finding, ...]


def config(
    artifact: Artifact,
    name: str,
    *,
    detector: str = "",
    frigate: str = "",
    endpoint: str = ENDPOINT,
) -> Written:
    """Return what Frigate must be told of an artifact.

    Args:
        artifact: a compiled one.
        name: what its file is called.
        detector: one of Frigate's types; the best one where "".
        frigate: Frigate's version; the newest release where "".
        endpoint: where `onchip frigate serve` is, for the detector zmq.

    Raises:
        InputError: there is no such version or detector.
        UnsupportedError: that detector cannot run the artifact, or that version has it not.
    """
    frigate = frigate or table().newest
    known = version(frigate)
    if detector and detector not in table().detectors:
        names = ", ".join(table().detectors)
        raise InputError(f"Frigate has no detector {detector!r}", f"its detectors: {names}")
    model, why = _model(artifact, detector, known, frigate)
    if model is None:
        model, detector = _served(artifact, name), SERVED
    else:
        detector = detector or next(d for d in model.detectors if _reads(known, d, model))
    _refuse(known, frigate, detector, model)
    if detector == SERVED:
        beyond(endpoint)  # or say that it is none
    stem = _plain(Path(model.file).stem)
    file = stem + model.suffix
    labels = "".join(f"{i} {' '.join(n.split())}\n" for i, n in enumerate(model.labels))
    files = {f"{stem}.labels.txt": labels.encode()}
    if detector != SERVED:
        files[file] = artifact.payload("program")
    lines = [
        *_head(artifact, name, frigate, detector, tuple(files), why, endpoint),
        *_detectors(detector, endpoint),
        "",
        *_section(model, known, detector, file, f"{stem}.labels.txt"),
        "",
        *_tracked(model.labels),
    ]
    text = "\n".join(lines) + "\n"
    made = parse(ALONE + text, "it", frigate=frigate)
    found = judge(made, program(artifact, name))
    own = tuple(f for f in found if f.code != "unknown_object")  # what to track is told in it
    return Written(text, files, detector, frigate, own)


def write(written: Written, folder: Path) -> tuple[Path, ...]:
    """Write it all into a folder; the configuration is called frigate.yml.

    Raises:
        InputError: it cannot be written.
    """
    files = {**written.files, "frigate.yml": written.yaml.encode()}
    for file, data in files.items():
        write_whole(folder / file, data)
    return tuple(folder / file for file in files)


def _model(
    artifact: Artifact, detector: str, known: Version, frigate: str
) -> tuple[FrigateModel | None, str]:
    """Return what Frigate runs by itself; None where onchip must serve, with the reason."""
    if detector == SERVED:
        return None, ""
    try:
        model = frigate_model(artifact)
    except UnsupportedError as error:
        if detector:
            raise
        return None, f"{error}"
    if detector and detector not in model.detectors:
        raise UnsupportedError(
            f"Frigate's {detector} cannot run a file for {artifact.manifest.target}",
            f"these can: {', '.join(model.detectors)}; and {SERVED}, with onchip frigate serve",
        )
    if detector or any(_reads(known, d, model) for d in model.detectors):
        return model, ""
    return None, f"Frigate {frigate} cannot read it by itself"


def _served(artifact: Artifact, name: str) -> FrigateModel:
    """A model behind `onchip frigate serve`, which letterboxes a square as the model wants it."""
    artifact.payload("program")  # or say what is missing
    spec = artifact.manifest.input
    side = max(spec.width, spec.height)
    return FrigateModel(
        detectors=(SERVED,),
        model_type="yolo-generic",
        input_tensor="nhwc",
        input_pixel_format="rgb",
        input_dtype="int",
        width=side,
        height=side,
        labels=artifact.manifest.head.labels,
        file=Path(name).name,
    )


def _reads(known: Version, detector: str, model: FrigateModel) -> bool:
    """Whether a version has a detector, which reads such a model."""
    types = known.types.get(detector)
    if types is None or (detector == "onnx" and not types):
        return False
    dtype = model.input_dtype in (known.input_dtype or ("int",))
    return dtype and (not types or model.model_type in types)


def _refuse(known: Version, frigate: str, detector: str, model: FrigateModel) -> None:
    if _reads(known, detector, model):
        return
    others = [n for n, v in table().versions.items() if _reads(v, detector, model)]
    raise UnsupportedError(
        f"Frigate {frigate} cannot run this model with {detector}",
        f"Frigate {', '.join(others)} can" if others else f"use {SERVED}: onchip frigate serve",
    )


def _plain(name: str) -> str:
    """Return a name that needs no quotes, anywhere."""
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name) or "model"
    )


def _head(
    artifact: Artifact,
    name: str,
    frigate: str,
    detector: str,
    files: tuple[str, ...],
    why: str,
    endpoint: str,
) -> list[str]:
    """What to do, as comments."""
    manifest, kind = artifact.manifest, table().detectors[detector]
    said = [
        f"For Frigate {frigate}, from {' '.join(name.split())} ({manifest.head.family} for "
        f"{manifest.target}); onchip {__version__}.",
        f'Put {" and ".join(sorted(files))} into a folder "{FOLDER}" beside Frigate\'s',
        "config.yml, and what follows into config.yml, in place of its detectors: and model:",
        *_compose(known := version(frigate), kind, detector, endpoint),
    ]
    if detector == SERVED:
        said += [f"{why}." for why in [why] if why]
        said += [
            "onchip looks at the frames, outside of Frigate. Start it first:",
            f"  onchip frigate serve {' '.join(name.split())} --endpoint {endpoint}",
        ]
    elif known.hailort and ".hef" in kind.files:
        said += [
            f"The image of Frigate {frigate} holds HailoRT {known.hailort}: the driver on the host",
            "must be of the very same version. onchip doctor says which it is.",
        ]
    elif known.rknnrt and ".rknn" in kind.files:
        said += [f"The image of Frigate {frigate} holds librknnrt {known.rknnrt}."]
    return [f"# {line}".rstrip() for line in said] + [""]


def _compose(known: Version, kind: Kind, detector: str, endpoint: str) -> list[str]:
    lines = list(kind.compose)
    if detector == SERVED and endpoint.startswith("ipc://"):
        folder = str(Path(endpoint.removeprefix("ipc://")).parent)
        lines = ["volumes:", f"  - {folder}:{folder}  # where the two meet"]
    elif detector == SERVED:
        lines = ["network_mode: host  # or an address that the container reaches"]
    if kind.image:
        lines.insert(0, f'image: ...  # the tag that ends in "{kind.image}": stable{kind.image}')
    return ["docker-compose.yml needs:", *(f"  {line}" for line in lines)] if lines else []


def _detectors(detector: str, endpoint: str) -> list[str]:
    own = list(table().detectors[detector].lines)
    if detector == SERVED:
        own = [
            f"endpoint: {json.dumps(endpoint)}",
            f"request_timeout_ms: {PATIENCE}  # longer than one look takes, in the worst case",
        ]
    return ["detectors:", "  onchip:", f"    type: {detector}", *(f"    {line}" for line in own)]


def _section(
    model: FrigateModel, known: Version, detector: str, file: str, labels: str
) -> list[str]:
    place = f"{PREFIX}{FOLDER}/"
    served = detector == SERVED
    pixels = "pixels as they are" if model.input_dtype == "int" else "0 to 1"
    pixels = "0 to 255" if model.input_dtype == "float_denorm" else pixels
    why = {
        "path": "only its name is told to onchip" if served else "",
        "labelmap_path": "else Frigate takes COCO's names, in another order",
        "model_type": "how Frigate reads the outputs" if known.types[detector] else "",
        "width": "of the frames; onchip scales them" if served else "of the model's input",
        "input_tensor": "",
        "input_pixel_format": "",
        "input_dtype": pixels,
    }
    values = {
        "path": place + file,
        "labelmap_path": place + labels,
        "model_type": model.model_type if model.model_type in known.model_type else "",
        "width": model.width,
        "height": model.height,
        "input_tensor": model.input_tensor,
        "input_pixel_format": model.input_pixel_format,
        "input_dtype": model.input_dtype if known.input_dtype else "",
    }
    lines = [
        f"  {key}: {value}" + (f"  # {why[key]}" if why.get(key) else "")
        for key, value in values.items()
        if value
    ]
    return ["model:  # at the root: Frigate ignores a model under detectors", *lines]


def _tracked(labels: tuple[str, ...]) -> list[str]:
    """Say how to track more than persons, or what there is instead of them."""
    names = [" ".join(label.split()) for label in labels]
    shown = json.dumps(names[:8], ensure_ascii=False)
    more = f", and {len(names) - 8} more: see the label file" if len(names) > 8 else ""
    why = (
        "Frigate tracks"
        if "person" in names
        else 'There is no "person", which is all that Frigate tracks'
    )
    rest = (
        ' "person" only, unless told otherwise' if "person" in names else " unless told otherwise"
    )
    return [f"# {why}{rest}{more}:", "# objects:", f"#   track: {shown}"]
