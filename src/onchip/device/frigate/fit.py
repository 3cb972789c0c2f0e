"""Whether a model file, and its labels, fit what a Frigate configuration says of them."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from onchip.device.frigate.model import frigate_model
from onchip.device.frigate.network import Network, Tensor
from onchip.device.frigate.setup import SIZE, Finding, Setup, error, section, warning
from onchip.errors import OnchipError

COCO = 80  # classes of Frigate's /labelmap/coco-80.txt
STRIDES = (8, 16, 32)
DFL = 64  # numbers of a box that edgetpu reads: four distributions of 16 bins
ANCHORS = 3  # per cell, of the heads of YOLOv4 to v7
BOXED = 6  # x1, y1, x2, y2, score, class: what end-to-end exports give
COCO_LABELS = "/labelmap/coco-80.txt"  # in Frigate's image
OWN_LABELS = "/labelmap.txt"


def fits(setup: Setup, net: Network | None) -> list[Finding]:
    """Say what does not fit."""
    found = list(_path(setup, net))
    if setup.type == "zmq":
        found += _served(setup)
    elif setup.type:
        found += _types(setup)
        if net is not None:
            found += [f for part in _FILE for f in part(setup, net)]
    found += _labels(setup, net)
    return found


def _path(setup: Setup, net: Network | None) -> Iterator[Finding]:
    """Which file Frigate will load."""
    path, kind = setup.path, setup.kind
    if path.startswith("plus://") or not setup.type:
        return
    if not path:
        default = kind.default or "nothing, and does not start"
        tell = error if net is not None or setup.model or not kind.default else warning
        yield tell(
            "no_path",
            "model.path",
            f"no model is named: {setup.type} loads {default}",
            f"add model.path: /config/{net.name if net else 'best' + (kind.files or ('',))[0]}",
        )
        return
    if setup.type == "rknn":
        yield from _rknn_path(setup, path)
    suffix = Path(path).suffix.lower()
    if kind.files and suffix not in kind.files and ("/" in path or setup.type != "rknn"):
        yield error(
            "file",
            "model.path",
            f"{setup.type} loads {' or '.join(kind.files)}, not {path}",
            "name a file of that kind, or another detector type",
        )
    elif net and net.suffix not in ("", *kind.files) and kind.files and net.artifact is None:
        yield error(
            "file",
            net.name,
            f"{setup.type} loads {' or '.join(kind.files)}",
            "name a file of that kind, or another detector type",
        )


def _rknn_path(setup: Setup, path: str) -> Iterator[Finding]:
    presets = setup.version.rknn_presets
    if "/" not in path and not any(re.fullmatch(p, path) for p in presets):
        yield error(
            "preset",
            "model.path",
            f"without a / this names a preset, and Frigate {setup.name} has none called {path}",
            f"write /config/{path} for a file of yours; presets are {', '.join(presets)}",
        )
    elif path.endswith(".onnx"):
        yield warning(
            "converted",
            "model.path",
            "Frigate converts an ONNX file on the board: it downloads a compiler and torch first, "
            "and what comes out is not quantized, so it is slower",
            "build the .rknn with onchip build --layout frigate",
        )


def _types(setup: Setup) -> Iterator[Finding]:
    """What the detector takes whatever the model."""
    known = setup.version.types[setup.type]
    given = setup.model.get("model_type", "ssd")
    preset = setup.type == "rknn" and "/" not in setup.path
    if known and given not in known and given in setup.version.model_type and not preset:
        yield error(
            "model_type",
            "model.model_type",
            f"{setup.type} of Frigate {setup.name} does not read {given}",
            f"it reads {', '.join(known)}",
        )
    if setup.type == "onnx" and not known:
        yield error(
            "model_type",
            "detectors",
            f"onnx of Frigate {setup.name} reads no model",
            "update Frigate to 0.16 or later",
        )
    yield from _fixed(setup)


def _fixed(setup: Setup) -> Iterator[Finding]:
    wanted = {"input_tensor": (setup.kind.tensor, "nhwc"), "input_dtype": (setup.kind.dtype, "int")}
    for key, (fixed, default) in wanted.items():
        given = setup.model.get(key, default)
        if fixed and given != fixed:
            yield error(
                key,
                f"model.{key}",
                f"{setup.type} takes {fixed} only, this says {given}",
                f"write {key}: {fixed}",
            )


def _served(setup: Setup) -> Iterator[Finding]:
    """What onchip frigate serve takes."""
    yield from _fixed(setup)
    if (color := setup.model.get("input_pixel_format", "rgb")) != "rgb":
        yield error(
            "input_pixel_format",
            "model.input_pixel_format",
            f"onchip frigate serve is given rgb, and nothing tells it of {color}",
            "write input_pixel_format: rgb",
        )


def _input(setup: Setup, net: Network) -> Iterator[Finding]:
    """Size, order and numbers of the file's own input."""
    if not net.inputs or net.artifact is not None:
        return
    own = net.inputs[0]
    given = (setup.model.get("width", SIZE), setup.model.get("height", SIZE))
    if own.size and own.size != given:
        yield _size(given, own.size, net.name)
    tensor = setup.model.get("input_tensor", "nhwc")
    if own.layout and own.layout != tensor and not setup.kind.tensor:
        yield error(
            "input_tensor",
            "model.input_tensor",
            f"{net.name} takes {own.layout}, this says {tensor}",
            f"write input_tensor: {own.layout}",
        )
    floats = own.dtype.startswith("float")
    dtype = setup.model.get("input_dtype", "int")
    if own.dtype and floats == (dtype == "int") and not setup.kind.dtype:
        cure = "float (0 to 1), or float_denorm (0 to 255)" if floats else "int"
        yield error(
            "input_dtype",
            "model.input_dtype",
            f"{net.name} takes {own.dtype}, this says {dtype}",
            f"write input_dtype: {cure}",
        )


def _size(given: object, own: tuple[int, int], name: str) -> Finding:
    width, height = given if isinstance(given, tuple) else (0, 0)
    return error(
        "input_size",
        "model.width",
        f"{name} takes {own[0]}x{own[1]}, this says {width}x{height}",
        f"write width: {own[0]} and height: {own[1]}",
    )


def _artifact(setup: Setup, net: Network) -> Iterator[Finding]:
    """What an artifact says of itself."""
    if net.artifact is None:
        return
    try:
        own = frigate_model(net.artifact)
    except OnchipError as failed:
        yield error("outputs", net.name, str(failed), failed.hint)
        return
    if setup.type not in own.detectors:
        yield error(
            "file",
            net.name,
            f"it runs on {', '.join(own.detectors)}, not on {setup.type}",
            f"write type: {own.detectors[0]}; zmq works too: onchip frigate serve",
        )
        return
    given = (setup.model.get("width", SIZE), setup.model.get("height", SIZE))
    if given != (own.width, own.height):
        yield _size(given, (own.width, own.height), net.name)
    defaults = {"input_tensor": "nhwc", "input_pixel_format": "rgb", "input_dtype": "int"}
    if setup.version.types[setup.type]:
        defaults["model_type"] = "ssd"
    for key, default in defaults.items():
        said, wanted = setup.model.get(key, default), getattr(own, key)
        fixed = {"input_tensor": setup.kind.tensor, "input_dtype": setup.kind.dtype}
        if said != wanted and not fixed.get(key):
            yield error(
                key,
                f"model.{key}",
                f"{net.name} takes {wanted}, this says {said}",
                f"write {key}: {wanted}",
            )


def _outputs(setup: Setup, net: Network) -> Iterator[Finding]:
    """Outputs that the plug-in cannot read."""
    if net.suffix == ".hef":
        yield from _hef_outputs(net)
    elif net.suffix == ".tflite":
        if setup.type == "edgetpu" and not net.edge_tpu:
            yield error(
                "outputs",
                net.name,
                "it was not compiled for the Edge TPU",
                "compile it: its name then ends in _edgetpu.tflite",
            )
        elif setup.type == "edgetpu" and setup.model.get("model_type", "ssd") == "yolo-generic":
            yield from _edgetpu_outputs(net)
    elif net.outputs and net.artifact is None:
        read = {"yolo-generic": _yolo, "yolox": _yolox}.get(
            str(setup.model.get("model_type", "ssd"))
        )
        cause = read(net) if read else ""
        if cause:
            yield error(
                "outputs",
                net.name,
                cause,
                "build it with --layout frigate, or serve it: onchip frigate serve X.onchip",
            )


def _edgetpu_outputs(net: Network) -> Iterator[Finding]:
    """Frigate tells boxes from classes by the boxes' four distributions of 16 bins."""
    columns = [t.shape[2] for t in net.outputs if len(t.shape) == 3]
    if len(net.outputs) in (2, 3) and DFL in columns and max({*columns} - {DFL}, default=0) > 1:
        return
    yield error(
        "outputs",
        net.name,
        f"it ends in {', '.join(str(t.shape) for t in net.outputs)}; Frigate wants boxes "
        "(1, cells, 64) and classes (1, cells, n) before their sigmoid",
        "build it with --layout frigate, or serve it: onchip frigate serve X.onchip",
    )


def _hef_outputs(net: Network) -> Iterator[Finding]:
    if not net.found and net.outputs:
        yield error(
            "no_nms",
            net.name,
            f"it ends in {len(net.outputs)} raw outputs, without HailoRT's NMS: Frigate then finds "
            "nothing, and says nothing",
            "build it with onchip build --layout frigate, which adds the NMS",
        )


def _yolo(net: Network) -> str:
    """Why yolo-generic cannot read the outputs; "" where it can."""
    if len(net.outputs) == ANCHORS and all(len(t.shape) == 4 for t in net.outputs):
        wrong = [t.shape for t in net.outputs if _channels(t) != ANCHORS * (COCO + 5)]
        count = f"{_channels(net.outputs[0]) / ANCHORS - 5:g}"
        if not wrong:
            return ""
        return (
            "three outputs are read as the anchor heads of YOLOv4 and v7 with 80 classes, always; "
            f"these would have {count}"
        )
    if len(net.outputs) > 1:
        return (
            f"it ends in {len(net.outputs)} outputs, which Frigate takes for the anchor heads of "
            "YOLOv4 and v7: it fails on the first frame"
        )
    shape = net.outputs[0].shape
    rows, columns = sorted(shape[1:], reverse=True) if len(shape) == 3 else (0, 0)
    if columns == BOXED:
        return f"its output {shape} is of an end-to-end export: Frigate reads it as scores of boxes"
    if not rows:
        return f"its output {shape} is not the (1, 4 + classes, boxes) that Frigate reads"
    cells = _cells(net)
    if cells and rows == ANCHORS * cells:
        return (
            f"its output {shape} is of YOLOv5's kind: Frigate takes the objectness for the "
            "score of class 0, and shifts all others by one"
        )
    return ""


def _yolox(net: Network) -> str:
    shape = net.outputs[0].shape
    cells = _cells(net)
    if len(net.outputs) != 1 or len(shape) != 3 or (cells and shape[1] != cells):
        return f"yolox reads one output (1, {cells or 'boxes'}, 5 + classes), this has {shape}"
    return ""


def _channels(tensor: Tensor) -> int:
    return tensor.shape[3] if tensor.layout == "nhwc" else tensor.shape[1]


def _cells(net: Network) -> int:
    """How many cells the grids of a YOLO have on this input."""
    size = net.inputs[0].size if net.inputs else None
    return sum((size[0] // s) * (size[1] // s) for s in STRIDES) if size else 0


def _chip(setup: Setup, net: Network) -> Iterator[Finding]:
    """Files for another chip, or for another runtime."""
    wanted = setup.kind.chips
    if net.chips and wanted and not set(net.chips) & set(wanted):
        yield error(
            "wrong_chip",
            net.name,
            f"it was compiled for {net.chips[0]}, which {setup.type} does not run",
            f"compile it for {', '.join(wanted)}",
        )
    elif net.chips and setup.chip and setup.chip not in _alike(net.chips):
        yield error(
            "wrong_chip",
            net.name,
            f"it was compiled for {net.chips[0]}, not {setup.chip}",
            f"build it with -t {setup.chip}",
        )
    pinned = setup.version.hailort
    if net.hailort is not None and pinned and not set(net.chips).isdisjoint(wanted):
        minors = {".".join(v.split(".")[:2]) for v in net.hailort}
        if ".".join(pinned.split(".")[:2]) not in minors:
            loads = ", ".join(net.hailort) or "none that is known"
            yield error(
                "hailort",
                net.name,
                f"compiler {net.compiler} made it, and HailoRT {loads} loads it: Frigate "
                f"{setup.name} has {pinned}, and no other can be put in",
                "compile it with the compiler of HailoRT 4.21 (3.31) or an earlier one of its "
                "line, or serve it: onchip frigate serve",
            )
    yield from _toolkit(setup, net)


def _toolkit(setup: Setup, net: Network) -> Iterator[Finding]:
    own = setup.version.rknnrt
    numbers = [tuple(int(n) for n in v.split(".")) for v in (net.toolkit, own) if v]
    if setup.type == "rknn" and net.toolkit and len(numbers) == 2 and numbers[0] > numbers[1]:
        yield warning(
            "toolkit",
            net.name,
            f"toolkit {net.toolkit} made it; Frigate {setup.name} has librknnrt {own}",
            f"compile it with toolkit {own}",
        )


def _alike(chips: Iterable[str]) -> set[str]:
    """Chips that run a file for these; RK3566 and RK3568 share theirs."""
    twins = {"rk3566": "rk3568", "rk3568": "rk3566"}
    return {*chips, *(twins[c] for c in chips if c in twins)}


_FILE: tuple[Callable[[Setup, Network], Iterable[Finding]], ...] = (
    _input,
    _artifact,
    _outputs,
    _chip,
)


def _labels(setup: Setup, net: Network | None) -> Iterator[Finding]:
    """The label file, and the objects that are to be tracked."""
    path = setup.model.get("labelmap_path")
    near = setup.here(path) if isinstance(path, str) else None
    classes = _classes(net)
    labels = _read(near) if near else None
    if near is not None and labels is None:
        yield error(
            "labelmap",
            "model.labelmap_path",
            f"{path} is no label file",
            "one label on each line, or on each line a number and a label",
        )
    count = len(labels) if labels else COCO if path == COCO_LABELS else 0
    if classes and count and count != classes:
        yield error(
            "labelmap",
            "model.labelmap_path",
            f"{path} names {count} classes, the model has {classes}",
            "onchip frigate config X.onchip -o FOLDER writes this model's labels",
        )
    if classes and path in (None, OWN_LABELS) and not setup.model.get("labelmap") and net:
        yield error(
            "labelmap",
            "model.labelmap_path",
            f"without one, Frigate calls the model's {classes} classes by the 90 names of the "
            "SSD models, in another order",
            f"add labelmap_path{': ' + COCO_LABELS if classes == COCO else ' with its labels'}",
        )
    own = net.artifact if net else None
    names = set(labels or ()) | set(own.manifest.head.labels if own else ())
    names |= set(map(str, section(setup.model, "labelmap").values())) if names else set()
    if names:
        yield from _objects(setup, names)


def _classes(net: Network | None) -> int:
    if net is None:
        return 0
    if net.artifact is not None:
        return net.artifact.manifest.head.classes
    if net.found and len(net.outputs) == 1:
        return net.outputs[0].shape[1]
    shape = net.outputs[0].shape if len(net.outputs) == 1 else ()
    return (
        min(shape[1:]) - 4 if len(shape) == 3 and min(shape[1:]) > BOXED and not _yolo(net) else 0
    )


def _objects(setup: Setup, names: set[str]) -> Iterator[Finding]:
    places = {"objects": setup.data.get("objects")}
    cameras = setup.data.get("cameras") or {}
    for name, camera in cameras.items() if isinstance(cameras, dict) else ():
        places[f"cameras.{name}.objects"] = (
            camera.get("objects") if isinstance(camera, dict) else None
        )
    tracked = {w: p["track"] for w, p in places.items() if isinstance(p, dict) and p.get("track")}
    if not tracked and "person" not in names:
        tracked = {"objects": ["person"]}  # what Frigate tracks unless told otherwise
    for where, track in tracked.items():
        lacking = (
            sorted({str(t) for t in track if str(t) not in names})
            if isinstance(track, list)
            else []
        )
        if lacking:
            yield warning(
                "unknown_object",
                f"{where}.track",
                f"the model has no {', '.join(lacking)}: Frigate leaves that out, and "
                "says so once in its log",
                f"its labels are {', '.join(sorted(names)[:20])}",
            )


def _read(path: Path) -> list[str] | None:
    """Return a label file's labels as Frigate reads them, or None where it cannot."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines:
        return None
    if not lines[0].split(" ", maxsplit=1)[0].isdigit():
        return [line.strip() for line in lines]
    pairs = [line.split(" ", maxsplit=1) for line in lines]
    if any(len(p) != 2 or not p[0].isdigit() for p in pairs):
        return None
    return [label.strip() for _, label in pairs]
