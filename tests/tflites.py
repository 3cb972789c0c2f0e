"""Small TFLite files, made with the schema of LiteRT."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Shape = Sequence[int]


@dataclass
class Network:
    """A network that grows; what adds a tensor returns its number."""

    tensors: list[schema.TensorT] = field(default_factory=list)
    operators: list[schema.OperatorT] = field(default_factory=list)
    codes: list[schema.OperatorCodeT] = field(default_factory=list)
    buffers: list[schema.BufferT] = field(default_factory=lambda: [schema.BufferT()])
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)

    def tensor(
        self,
        name: str,
        shape: Shape,
        dtype: str = "int8",
        scale: float | Sequence[float] | None = 0.1,
        zero: int = 0,
        *,
        signature: Shape | None = None,
        value: np.ndarray | None = None,
        axis: int = 0,
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape = name, list(shape)
        made.type = getattr(schema.TensorType, dtype.upper())
        made.shapeSignature = None if signature is None else list(signature)
        if scale is not None:
            scales = [scale] if isinstance(scale, float) else list(scale)
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scales
            made.quantization.zeroPoint = [zero] * len(scales)
            made.quantization.quantizedDimension = axis
        if value is not None:
            self.buffers.append(schema.BufferT())
            self.buffers[-1].data = np.frombuffer(value.tobytes(), np.uint8)
            made.buffer = len(self.buffers) - 1
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, value: object, dtype: str = "int32", scale: float | None = None) -> int:
        array = np.asarray(value, dtype)
        return self.tensor(f"c{len(self.tensors)}", array.shape, dtype, scale, value=array)

    def add(
        self,
        op: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str = "",
        *,
        version: int = 1,
        **fields: int,
    ) -> None:
        """Add an operator; `options` is the schema's name of its options, less "Options"."""
        code, one = schema.OperatorCodeT(), schema.OperatorT()
        known = getattr(schema.BuiltinOperator, op, None)
        number = schema.BuiltinOperator.CUSTOM if known is None else known
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.customCode = op if known is None else None
        code.version = version
        self.codes.append(code)
        one.opcodeIndex = len(self.codes) - 1
        one.inputs, one.outputs = list(inputs), list(outputs)
        if options:
            one.builtinOptionsType = getattr(schema.BuiltinOptions, f"{options}Options")
            one.builtinOptions = getattr(schema, f"{options}OptionsT")()
            for name, value in fields.items():
                assert hasattr(one.builtinOptions, name), name
                setattr(one.builtinOptions, name, value)
        self.operators.append(one)

    def written(self, behind: bytes = b"") -> bytes:
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.description = 3, "made by a test"
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = self.inputs, self.outputs
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [graph], self.buffers
        model.metadata = []
        for name, value in self.metadata.items():
            self.buffers.append(schema.BufferT())
            self.buffers[-1].data = np.frombuffer(value, np.uint8)
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, len(self.buffers) - 1
            model.metadata.append(entry)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output()) + behind
