"""Read an ONNX file into a Model: checked, sized, in float32 and at an opset we know."""

import ast
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper, version_converter

from onchip.errors import InputError, UnsupportedError

MAX_BYTES = 2 << 30  # protobuf's own limit
OPSET = 13  # the first with per-channel DequantizeLinear


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape (0 where unknown) and element type of a graph input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Model:
    """An ONNX graph with its digest. The protobuf is never changed in place."""

    proto: onnx.ModelProto
    digest: str  # sha256 of the file as it was read, with the weights that stand beside it
    name: str = ""

    @cached_property
    def bytes(self) -> bytes:
        """The serialized graph."""
        return bytes(self.proto.SerializeToString())

    @cached_property
    def constants(self) -> dict[str, npt.NDArray[np.generic]]:
        """Every initializer and Constant node, as arrays."""
        found = {t.name: numpy_helper.to_array(t) for t in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        return found

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.proto.graph.node for name in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.proto.graph.node:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The inferred shape of every tensor that has one (0 for an unknown dimension)."""
        graph = onnx.shape_inference.infer_shapes(self.proto).graph
        values = [*graph.input, *graph.value_info, *graph.output]
        found = {v.name: _shape(v) for v in values if v.type.tensor_type.HasField("shape")}
        return found | {t.name: tuple(t.dims) for t in graph.initializer}

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The graph's real inputs, initializers left out."""
        fixed = {t.name for t in self.proto.graph.initializer}
        return tuple(_info(v) for v in self.proto.graph.input if v.name not in fixed)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The graph's outputs."""
        return tuple(_info(v) for v in self.proto.graph.output)

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return max(o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx"))

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The model's own notes."""
        return {p.key: p.value for p in self.proto.metadata_props}

    def noise(self, seed: int) -> npt.NDArray[np.generic]:
        """Return an input of uniform noise, 0 to 1, or 0 to 255 where the input is bytes."""
        info = self.inputs[0]
        tensor = np.random.default_rng(seed).random(info.shape, dtype=np.float32)
        return (tensor * 255).astype(np.uint8) if info.dtype == "uint8" else tensor

    def changed(self, proto: onnx.ModelProto) -> "Model":
        """Return this model with another graph; the digest stays that of the file."""
        return replace(self, proto=proto)


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type.elem_type
    dtype = str(helper.tensor_dtype_to_np_dtype(kind)) if kind else "unknown"
    return TensorInfo(value.name, _shape(value), dtype)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def read(path: Path, size: tuple[int, int] | None = None) -> Model:
    """Read an ONNX detector; weights in files beside it come along.

    Args:
        path: the `.onnx` file.
        size: width and height, for a model whose input has no fixed size.

    Raises:
        InputError: not an ONNX file, damaged, or without a size.
        UnsupportedError: not a network over one image.
    """
    return prepared(load(path), size)


def prepared(model: Model, size: tuple[int, int] | None = None) -> Model:
    """Return a loaded model with a fixed size, in float32, at an opset that we know.

    Raises:
        InputError: it has no size, and none was given.
        UnsupportedError: not a network over one image.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    _drop_initializer_inputs(proto)
    _fix_size(proto, size or _named_size(model.metadata))
    _widen(proto)
    if model.opset < OPSET:
        proto = _upgrade(proto, model.opset)
    return model.changed(proto)


def load(path: Path) -> Model:
    """Read an ONNX file as it is, without any change."""
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name the .onnx file in it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise InputError(f"{path} is empty", "export the model again")
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than an ONNX file can be (2 GiB)")
    proto = parse(data, str(path))
    external = any(t.data_location == TensorProto.EXTERNAL for t in proto.graph.initializer)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"{path} keeps its weights in another file, which cannot be read: {error}",
            "put the .onnx and its data file into one folder",
        ) from error
    if external:
        data = bytes(proto.SerializeToString())
    return Model(proto, hashlib.sha256(data).hexdigest(), path.stem)


def parse(data: bytes, name: str) -> onnx.ModelProto:
    """Parse the bytes of an ONNX file; `name` is for the error."""
    hint = "is it an ONNX file, and complete? Export or copy it again"
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise InputError(f"{name} is not a readable ONNX file ({len(data)} bytes)", hint) from error
    if not proto.graph.node or not proto.opset_import or not proto.graph.output:
        raise InputError(f"{name} holds no ONNX graph ({len(data)} bytes)", hint)
    return proto


def _drop_initializer_inputs(proto: onnx.ModelProto) -> None:
    """Old exporters list every weight as an input too, which forbids folding."""
    fixed = {t.name for t in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name not in fixed]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 7)


def _fix_size(proto: onnx.ModelProto, size: tuple[int, int] | None) -> None:
    """Give the image input a fixed shape, batch 1."""
    images = [v for v in proto.graph.input if len(_shape(v)) == 4]
    if len(images) != 1:
        seen = ", ".join(f"{v.name}{list(_shape(v))}" for v in proto.graph.input) or "none"
        raise UnsupportedError(
            f"the model has no single image input; its inputs are {seen}",
            "a detector takes one 4-dimensional tensor, batch x channels x height x width",
        )
    dims = images[0].type.tensor_type.shape.dim
    spatial = (1, 2) if dims[3].dim_value == 3 else (2, 3)
    known = tuple(dims[axis].dim_value for axis in spatial)
    if 0 in known and size is None:
        raise InputError(
            f"the model's input {images[0].name} has no fixed height and width",
            "say which: --imgsz 640, or --imgsz WIDTHxHEIGHT",
        )
    if dims[1 if spatial == (2, 3) else 3].dim_value not in (0, 3):
        raise UnsupportedError(
            f"the model's input {images[0].name} is {list(_shape(images[0]))}: not three channels",
            "onchip takes detectors of colour images",
        )
    changed = dims[0].dim_value != 1 or 0 in known
    dims[0].dim_value = 1
    for axis, value, wanted in zip(spatial, known, (size or (0, 0))[::-1], strict=True):
        dims[axis].dim_value = value or wanted
    dims[1 if spatial == (2, 3) else 3].dim_value = 3
    if changed:
        del proto.graph.value_info[:]
        for output in proto.graph.output:
            for dim in output.type.tensor_type.shape.dim:
                dim.Clear()


def _named_size(metadata: dict[str, str]) -> tuple[int, int] | None:
    """Return width and height from the exporter's own note (`imgsz`: height, width)."""
    try:
        sizes = ast.literal_eval(metadata.get("imgsz", "None"))
    except (ValueError, SyntaxError):
        return None
    if isinstance(sizes, int):
        return (sizes, sizes)
    if isinstance(sizes, list | tuple) and len(sizes) == 2:
        return (int(sizes[1]), int(sizes[0]))
    return None


def _widen(proto: onnx.ModelProto) -> None:
    """Turn float16 weights, types and casts into float32; half precision is a chip's business."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    graph = proto.graph
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(_as_single(tensor))
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == half:
                attribute.i = single
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == half:
                attribute.t.CopyFrom(_as_single(attribute.t))


def _as_single(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _upgrade(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(proto, OPSET)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedError(
            f"the model is at ONNX opset {opset} and cannot be lifted to {OPSET}: {reason}",
            f"export it again with opset {OPSET} or newer",
        ) from error


def cut_at(model: Model, outputs: tuple[str, ...]) -> Model:
    """Return the part of the graph that makes `outputs`, and nothing else."""
    needed: set[str] = set()
    stack = list(outputs)
    keep: set[int] = set()
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        needed.add(name)
        if (node := model.producers.get(name)) is not None:
            keep.add(id(node))
            stack.extend(n for n in node.input if n)
    graph = model.proto.graph
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:], proto.graph.output[:], proto.graph.initializer[:]
    proto.graph.node.extend(n for n in graph.node if id(n) in keep)
    proto.graph.initializer.extend(t for t in graph.initializer if t.name in needed)
    proto.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, model.shapes.get(n)) for n in outputs
    )
    values = [v for v in proto.graph.value_info if v.name in needed and v.name not in outputs]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(values)
    return model.changed(proto)
