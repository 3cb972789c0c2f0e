"""What a model file says of itself, as far as Frigate must know it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onchip.artifact import Artifact, load
from onchip.errors import InputError
from onchip.formats import hef, rknn, tflite
from onchip.formats.hailo_versions import table
from onchip.formats.hef import HefFile
from onchip.formats.versions import number

MOST_BYTES = 2 << 30


@dataclass(frozen=True)
class Tensor:
    """One input or output; `layout` is "nchw" or "nhwc", or "" where the file does not say."""

    shape: tuple[int, ...]
    dtype: str = ""
    layout: str = ""

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, where it is an image of a fixed size."""
        if len(self.shape) != 4 or not self.layout:
            return None
        height, width = self.shape[1:3] if self.layout == "nhwc" else self.shape[2:]
        return (width, height) if width > 0 and height > 0 else None


@dataclass(frozen=True)
class Network:
    """A model file. `chips` run it; `found` says that it gives boxes, suppressed; `hailort` which
    releases load it (None where that is no question); `artifact` is of an .onchip file."""

    name: str
    suffix: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    chips: tuple[str, ...] = ()
    found: bool = False
    hailort: tuple[str, ...] | None = None
    compiler: str = ""
    toolkit: str = ""
    edge_tpu: bool = False
    artifact: Artifact | None = None


def read(path: Path) -> Network:
    """Read a model file: .onchip, .hef, .rknn, .onnx or .tflite.

    Raises:
        InputError: it cannot be read, or is of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise InputError(f"{path} is no model file", f"known are {', '.join(_READERS)}")
    if not path.is_file():
        raise InputError(f"{path} is not a file", "name a model file")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is larger than a model can be (2 GiB)")
    return _READERS[suffix](path)


def program(artifact: Artifact, name: str) -> Network:
    """Return the compiled program of an artifact, which Frigate would load, as far as it reads."""
    made = artifact.manifest.payloads.get("program")
    suffix = Path(made.file).suffix if made else ""
    data = artifact.payloads.get("program", b"")
    if suffix == ".hef":
        return _of_hef(hef.parse(data, name), name, artifact)
    if suffix == ".rknn":
        return _of_rknn(rknn.parse(data, name), name, artifact)
    if suffix == ".tflite":
        return _of_tflite(tflite.parse(data, name), name, artifact)
    return Network(name, suffix, artifact=artifact)


def _onchip(path: Path) -> Network:
    return program(load(path), path.name)


def _hef(path: Path) -> Network:
    return _of_hef(hef.read(path), path.name)


def _of_hef(file: HefFile, name: str, artifact: Artifact | None = None) -> Network:
    arch = table().arch_of(file.arch)
    strict = (file.sdk or file.compiler) if file.strict else ""
    loading = table().loading(file.header.form, file.extensions, file.arch, strict)
    group = file.groups[0] if file.groups else None
    inputs = tuple(Tensor((1, *t.shape), t.dtype, "nhwc") for t in group.inputs) if group else ()
    outputs = tuple(Tensor((1, *t.shape), t.dtype) for t in group.outputs) if group else ()
    found = group is not None and len(outputs) == 1 and "NMS" in group.outputs[0].order.upper()
    return Network(
        name,
        ".hef",
        inputs,
        outputs,
        arch.devices if arch else (),
        found,
        tuple(r.version for r in loading) if file.header.good is not None else None,
        file.compiler,
        artifact=artifact,
    )


def _rknn(path: Path) -> Network:
    return _of_rknn(rknn.read(path), path.name)


def _of_rknn(file: rknn.RknnFile, name: str, artifact: Artifact | None = None) -> Network:
    inputs, outputs = (
        tuple(Tensor(t.shape, t.dtype, t.layout) for t in tensors)
        for tensors in (file.inputs, file.outputs)
    )
    chips = tuple(p.lower() for p in file.platforms)
    toolkit = ".".join(map(str, number(file.toolkit)[:3]))
    return Network(name, ".rknn", inputs, outputs, chips, toolkit=toolkit, artifact=artifact)


def _onnx(path: Path) -> Network:
    from onchip.graph.read import load as load_onnx  # only here: a board needs no compiler

    model = load_onnx(path)
    inputs = tuple(Tensor(t.shape, t.dtype, _order(t.shape)) for t in model.inputs)
    outputs = tuple(Tensor(t.shape, t.dtype) for t in model.outputs)
    return Network(path.name, ".onnx", inputs, outputs)


def _order(shape: tuple[int, ...]) -> str:
    if len(shape) != 4:
        return ""
    return "nchw" if shape[1] == 3 else "nhwc" if shape[3] == 3 else ""


def _tflite(path: Path) -> Network:
    return _of_tflite(tflite.read(path), path.name)


def _of_tflite(file: tflite.TfliteFile, name: str, artifact: Artifact | None = None) -> Network:
    inputs, outputs = (
        tuple(Tensor(t.shape, t.dtype, _order(t.shape)) for t in file.shown(numbers))
        for numbers in (file.inputs, file.outputs)
    )
    edge_tpu = file.compiled == tflite.EDGE_TPU
    return Network(name, ".tflite", inputs, outputs, edge_tpu=edge_tpu, artifact=artifact)


_READERS: Mapping[str, Callable[[Path], Network]] = {
    ".onchip": _onchip,
    ".hef": _hef,
    ".rknn": _rknn,
    ".onnx": _onnx,
    ".tflite": _tflite,
}
KNOWN = tuple(_READERS)
