"""Read an ONNX file into a Model: checked, sized, in float32 and at an opset we know."""

import ast
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper, version_converter

from onchip.errors import InputError, UnsupportedError
from onchip.graph.run import translated

MAX_BYTES = 2 << 30  # protobuf's own limit
MAX_PIXELS = 1 << 24  # of the input: 4096 x 4096
OPSET = 13  # the first with per-channel DequantizeLinear
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
QUANTIZED |= {"ConvInteger", "MatMulInteger", "QGemm", "QAttention", "MatMulNBits", "MatMulBnb4"}
QUANTIZED |= {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
FREE_TEXT = {"doc_string", "key", "value", "producer_name", "producer_version"}  # no names
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
DAMAGED = "is it an ONNX file, and complete? Export or copy it again"


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
        return _serialized(self.proto)

    @cached_property
    def constants(self) -> dict[str, npt.NDArray[np.generic]]:
        """Every initializer and Constant node, as arrays."""
        found = {t.name: _array(t) for t in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if node.op_type == "Constant" and [a.name for a in node.attribute] == ["value"]:
                found |= {name: _array(node.attribute[0].t) for name in node.output}
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
        with translated("the shapes in the graph cannot be worked out", kind=UnsupportedError):
            graph = onnx.shape_inference.infer_shapes(self.proto).graph
        values = [*graph.input, *graph.value_info, *graph.output]
        found = {v.name: _shape(v) for v in values if v.type.tensor_type.HasField("shape")}
        return found | {t.name: tuple(t.dims) for t in graph.initializer}

    @cached_property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The graph's real inputs, initializers left out."""
        fixed = {t.name for t in self.proto.graph.initializer}
        return tuple(_info(v) for v in self.proto.graph.input if v.name not in fixed)

    @cached_property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The graph's outputs."""
        return tuple(_info(v) for v in self.proto.graph.output)

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return _opset(self.proto)

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
    known = kind in helper.get_all_tensor_dtypes()
    dtype = str(helper.tensor_dtype_to_np_dtype(kind)) if known else "unknown"
    return TensorInfo(value.name, _shape(value), dtype)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(max(0, d.dim_value) for d in value.type.tensor_type.shape.dim)


def _opset(proto: onnx.ModelProto) -> int:
    versions = (o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    return max(versions, default=0)


def _serialized(proto: onnx.ModelProto) -> bytes:
    with translated(
        "the network is larger than an ONNX file can be (2 GiB)", kind=UnsupportedError
    ):
        return bytes(proto.SerializeToString())


def _array(tensor: onnx.TensorProto) -> npt.NDArray[np.generic]:
    with translated(f"the weight {tensor.name} is damaged", DAMAGED):
        return numpy_helper.to_array(tensor)


def literal(text: str) -> Any:
    """Return the value that an exporter wrote as Python, or None where it does not read."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


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
        InputError: it has no size and none was given, or another than was given.
        UnsupportedError: not a network over one image, or quantized already.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    _refuse_quantized(proto)
    _drop_initializer_inputs(proto)
    _widen(proto)
    image = _image(proto)
    if size is not None:
        _refuse_other_size(image, size)
    if _fix_size(image, size or _named_size(model.metadata)):
        _forget_shapes(proto)
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
    _refuse_odd_names(proto, path)
    if _external(proto):
        _collect(proto, path)
        data = _serialized(proto)
    return Model(proto, hashlib.sha256(data).hexdigest(), path.stem)


def parse(data: bytes, name: str) -> onnx.ModelProto:
    """Parse the bytes of an ONNX file; `name` is for the error."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        message = f"{name} is not a readable ONNX file ({len(data)} bytes)"
        raise InputError(message, DAMAGED) from error
    if not proto.graph.node or not proto.graph.output:
        raise InputError(f"{name} holds no ONNX graph ({len(data)} bytes)", DAMAGED)
    if _opset(proto) < 1:
        raise InputError(f"{name} does not say which version of ONNX's operations it uses", DAMAGED)
    return proto


def _messages(message: Message) -> Iterator[Message]:
    """Yield a message and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                yield from _messages(part)


def _refuse_odd_names(proto: onnx.ModelProto, path: Path) -> None:
    """Names end up in messages and in other files: protobuf leaves bytes where they are no text."""
    for message in _messages(proto):
        for field, value in message.ListFields():
            if field.type != field.TYPE_STRING:
                continue
            for text in [value] if isinstance(value, str | bytes) else value:
                control = field.name not in FREE_TEXT and isinstance(text, str)
                if isinstance(text, bytes) or (control and CONTROL.search(text)):
                    raise InputError(f"{path} has a name that is no text: {text!r}", DAMAGED)


def _external(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the tensors, wherever they are, whose values stand in another file."""
    tensors = (m for m in _messages(proto) if isinstance(m, TensorProto))
    return [t for t in tensors if t.data_location == TensorProto.EXTERNAL]


def _collect(proto: onnx.ModelProto, path: Path) -> None:
    """Bring in the weights that stand in other files; only those in the model's own folder."""
    folder = path.parent.resolve()
    message = f"{path} keeps its weights in another file, which cannot be read"
    with translated(message, "put the .onnx and its data file into one folder"):
        for place in {e.value for t in _external(proto) for e in t.external_data}:
            if not (folder / place).resolve().is_relative_to(folder):
                raise InputError(
                    f"{path} keeps its weights outside its own folder: {place!r}",
                    "onchip reads no files there; export the model again, with its data beside it",
                )
        onnx.load_external_data_for_model(proto, str(path.parent))
        if left := _external(proto):
            raise InputError(f"{message}: {left[0].name}", "export the model into one file")


def _drop_initializer_inputs(proto: onnx.ModelProto) -> None:
    """Old exporters list every weight as an input too, which forbids folding."""
    fixed = {t.name for t in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name not in fixed]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 7)


def _refuse_quantized(proto: onnx.ModelProto) -> None:
    operations = dict.fromkeys(n.op_type for n in proto.graph.node)
    found = [o for o in operations if o in QUANTIZED or o.startswith("QLinear")]
    if found:
        raise UnsupportedError(
            f"the model is quantized already: it has {', '.join(found)}",
            "export the float model; onchip quantizes it for the chip and measures the loss",
        )


def _image(proto: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the one input, which must be a colour image."""
    inputs = proto.graph.input
    if len(inputs) != 1 or len(_shape(inputs[0])) != 4:
        seen = ", ".join(f"{v.name}{list(_shape(v))}" for v in inputs) or "none"
        raise UnsupportedError(
            f"the model has no single image input; its inputs are {seen}",
            "a detector takes one 4-dimensional tensor, batch x channels x height x width",
        )
    info = _info(inputs[0])
    if info.shape[_axes(info.shape)[0]] not in (0, 3):
        raise UnsupportedError(
            f"the model's input {info.name} is {list(info.shape)}: not three channels",
            "onchip takes detectors of colour images",
        )
    if info.dtype not in ("float32", "uint8"):
        raise UnsupportedError(
            f"the model's input {info.name} is of type {info.dtype}",
            "onchip takes detectors that are fed float or uint8 pixels",
        )
    return inputs[0]


def _axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return where channels, height and width stand."""
    return (3, 1, 2) if shape[3] == 3 else (1, 2, 3)


def _refuse_other_size(image: onnx.ValueInfoProto, size: tuple[int, int]) -> None:
    shape = _shape(image)
    _, height, width = (shape[axis] for axis in _axes(shape))
    if width not in (0, size[0]) or height not in (0, size[1]):
        raise InputError(
            f"the model's input {image.name} is fixed to {width or '?'}x{height or '?'}, "
            f"but --imgsz says {size[0]}x{size[1]}",
            "leave --imgsz out, or export the model with that size",
        )


def _fix_size(image: onnx.ValueInfoProto, size: tuple[int, int] | None) -> bool:
    """Give the image input a fixed shape, batch 1; return whether that changed its grid."""
    dims, shape = image.type.tensor_type.shape.dim, _shape(image)
    channels, *spatial = _axes(shape)
    known = tuple(shape[axis] for axis in spatial)
    if 0 in known and size is None:
        raise InputError(
            f"the model's input {image.name} has no fixed height and width",
            "say which: --imgsz 640, or --imgsz WIDTHxHEIGHT",
        )
    height, width = (a or b for a, b in zip(known, (size or (0, 0))[::-1], strict=True))
    if width * height > MAX_PIXELS:
        raise InputError(
            f"the model's input {image.name} is {width}x{height} pixels",
            f"onchip takes up to {MAX_PIXELS} pixels, 4096x4096",
        )
    for axis, value in zip((0, channels, *spatial), (1, 3, height, width), strict=True):
        dims[axis].dim_value = value
    return shape[0] != 1 or 0 in known


def _forget_shapes(proto: onnx.ModelProto) -> None:
    """Drop what the file says of shapes that follow from the input's."""
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()


def _named_size(metadata: dict[str, str]) -> tuple[int, int] | None:
    """Return width and height from the exporter's own note (`imgsz`: height, width)."""
    sizes = literal(metadata.get("imgsz", "None"))
    pair = [sizes, sizes] if isinstance(sizes, int) else sizes
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    height, width = pair
    whole = isinstance(height, int) and isinstance(width, int) and min(pair) > 0
    return (width, height) if whole else None


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
    return numpy_helper.from_array(_array(tensor).astype(np.float32), tensor.name)


def _upgrade(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    with translated(
        f"the model is at ONNX opset {opset} and cannot be lifted to {OPSET}",
        f"export it again with opset {OPSET} or newer",
        kind=UnsupportedError,
    ):
        return version_converter.convert_version(proto, OPSET)


def _reads(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that a node reads, those of its subgraphs too."""
    nodes = (m for m in _messages(node) if isinstance(m, onnx.NodeProto))
    return [name for each in nodes for name in each.input if name]


def groups_of(node: onnx.NodeProto) -> int:
    """Return the groups of a convolution."""
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def is_depthwise(node: onnx.NodeProto, weights: Sequence[int]) -> bool:
    """Whether each row of weights of this shape reads a channel of its own."""
    return groups_of(node) > 1 and tuple(weights[:2]) == (groups_of(node), 1)


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
            stack.extend(_reads(node))
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
