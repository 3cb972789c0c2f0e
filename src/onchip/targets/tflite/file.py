"""A .tflite file put together tensor by tensor, with the schema of LiteRT's own package."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
ALIGNED = 16  # bytes, as the schema demands of a buffer's data; its Python classes do not keep it

# the fields of an operator, where the schema's name for them is not the operator's own
OPTIONS = {
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "LOGISTIC": "",
    "MAXIMUM": "MaximumMinimumOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "PADV2": "PadV2Options",
    "RELU": "",
    "RELU6": "",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "SQRT": "",
    "TANH": "",
}
# the first version of an operator that takes signed bytes; the rest are at 2, or 1 in float
VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "RESHAPE": 1, "QUANTIZE": 1}
HALF_PIXELS = {"RESIZE_BILINEAR": 3, "RESIZE_NEAREST_NEIGHBOR": 3}


@dataclass(frozen=True)
class Scales:
    """What a tensor's integers stand for: one scale, or one for each place on an axis."""

    scales: Sequence[float] | npt.NDArray[np.floating]
    zero: int = 0
    axis: int = 0


class _Buffer(schema.BufferT):  # type: ignore[misc]
    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the schema's name
        if self.data is None:
            return super().Pack(builder)
        builder.StartVector(1, len(self.data), ALIGNED)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
        place = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, place)
        return schema.BufferEnd(builder)


def _table(kind: str, **fields: object) -> Any:
    """Make one of the schema's tables; older ones take no fields when they are made."""
    made = getattr(schema, f"{kind}T")()
    for name, value in fields.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


@dataclass
class File:
    """Collects tensors and operators; tensors are told apart by their number."""

    _tensors: list[Any] = field(default_factory=list)
    _operators: list[Any] = field(default_factory=list)
    _buffers: list[Any] = field(default_factory=lambda: [_Buffer()])
    _codes: dict[tuple[str, int], int] = field(default_factory=dict)

    def tensor(
        self, name: str, shape: Sequence[int], kind: str, scales: Scales | None = None
    ) -> int:
        """Add a tensor that an operator makes, or the file's input."""
        quantization = None
        if scales is not None:
            quantization = _table(
                "QuantizationParameters",
                scale=np.asarray(scales.scales, np.float32),
                zeroPoint=np.full(len(scales.scales), scales.zero, np.int64),
                quantizedDimension=scales.axis,
            )
        self._tensors.append(
            _table(
                "Tensor",
                shape=np.asarray(shape, np.int32),
                type=getattr(schema.TensorType, kind.upper()),
                name=name,
                quantization=quantization,
            )
        )
        return len(self._tensors) - 1

    def constant(
        self, name: str, values: npt.NDArray[np.generic], scales: Scales | None = None
    ) -> int:
        """Add a tensor whose values stand in the file."""
        number = self.tensor(name, values.shape, str(values.dtype), scales)
        self._tensors[number].buffer = len(self._buffers)
        self._buffers.append(_Buffer())
        self._buffers[-1].data = np.ascontiguousarray(values).tobytes()
        return number

    def operator(
        self, op: str, inputs: Sequence[int], outputs: Sequence[int], **fields: object
    ) -> None:
        """Add an operator, with the fields of its options."""
        name = OPTIONS.get(op, f"{op.title().replace('_', '')}Options")
        options = _table(name, **fields) if name else None
        self._operators.append(
            _table(
                "Operator",
                opcodeIndex=self._code(op, inputs, fields),
                inputs=np.asarray(inputs, np.int32),
                outputs=np.asarray(outputs, np.int32),
                builtinOptionsType=getattr(schema.BuiltinOptions, name) if name else 0,
                builtinOptions=options,
            )
        )

    def _code(self, op: str, inputs: Sequence[int], fields: dict[str, object]) -> int:
        version = 1
        if any(self._tensors[n].type == schema.TensorType.INT8 for n in inputs):
            version = VERSIONS.get(op, 2)
        if fields.get("halfPixelCenters"):
            version = HALF_PIXELS[op]
        return self._codes.setdefault((op, version), len(self._codes))

    def written(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Return the file's bytes."""
        codes = [
            _table(
                "OperatorCode",
                deprecatedBuiltinCode=min(number, 127),  # all that older readers know
                builtinCode=number,
                version=version,
            )
            for op, version in self._codes
            for number in [getattr(schema.BuiltinOperator, op)]
        ]
        graph = _table(
            "SubGraph",
            tensors=self._tensors,
            inputs=np.asarray(inputs, np.int32),
            outputs=np.asarray(outputs, np.int32),
            operators=self._operators,
            name="main",
        )
        model = _table(
            "Model",
            version=3,
            operatorCodes=codes,
            subgraphs=[graph],
            description="onchip",
            buffers=self._buffers,
        )
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())
