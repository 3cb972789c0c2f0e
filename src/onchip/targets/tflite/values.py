"""The tensors of a .tflite file while it is written, and how one form becomes another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onchip.errors import UnsupportedError
from onchip.graph.read import Model
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan
from onchip.targets.tflite import lay
from onchip.targets.tflite.file import File, Scales
from onchip.targets.tflite.lay import Axes

CODES, FLOATS = "int8", "float32"
PLAIN = (0, 1, 2, 3)
HINT = "cut before it (--end-nodes), or build for a target that has it"


@dataclass(frozen=True)
class Value:
    """A tensor: its number in the file, the shape that ONNX gives it, and how its axes lie.

    `stored` is its shape in the file. Where that is another, a RESHAPE stands before whoever reads
    it; without readers there is none.
    """

    number: int
    name: str
    shape: Axes
    order: Axes
    stored: Axes
    kind: str = FLOATS
    scale: float = 0.0
    zero: int = 0

    @property
    def lies(self) -> Axes:
        """Its shape as its axes lie."""
        return lay.lies(self.shape, self.order)

    @property
    def scales(self) -> Scales | None:
        """What its codes stand for; None where it holds floats."""
        return None if self.kind == FLOATS else Scales([self.scale], self.zero)

    def seen_as(self, shape: Axes, order: Axes) -> "Value":
        """The same values in the same place, in another shape."""
        return replace(self, shape=tuple(shape), order=order)


@dataclass(frozen=True)
class Step:
    """One node of the graph on its way into the file."""

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integer: bool
    clamped: bool = False  # a ReLU is computed together with it

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)

    def field(self, name: str, default: Any = None) -> Any:
        """One of the node's attributes."""
        found = (a for a in self.node.attribute if a.name == name)
        return next((helper.get_attribute_value(a) for a in found), default)

    def refused(self, why: str) -> UnsupportedError:
        """The error for what the format cannot say."""
        return UnsupportedError(f"{self.name} ({self.node.op_type}): {why} in a .tflite file", HINT)


@dataclass
class Writer:
    """The file, and what of the graph is in it; `values` are by the graph's own names."""

    file: File
    model: Model
    plan: QuantPlan
    values: dict[str, Value] = field(default_factory=dict)
    _formed: dict[object, Value] = field(default_factory=dict)  # brought into another form

    def __post_init__(self) -> None:
        self.planned: Mapping[str, TensorPlan] = {t.name: t for t in self.plan.tensors}
        self.layers: Mapping[str, LayerPlan] = {x.node: x for x in self.plan.layers}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        order: Axes,
        kind: str = FLOATS,
        scale: float = 0.0,
        zero: int = 0,
    ) -> Value:
        """Add a tensor."""
        value = Value(-1, name, tuple(shape), order, (), kind, scale, zero)
        number = self.file.tensor(name, value.lies, kind, value.scales)
        return replace(value, number=number, stored=value.lies)

    def like(self, value: Value, name: str) -> Value:
        """Add a tensor of the same shape that holds values of the same kind and scale."""
        return self.tensor(name, value.shape, value.order, value.kind, value.scale, value.zero)

    def make(self, step: Step, order: Axes, index: int = 0) -> Value:
        """Add the tensor that a step makes: in the plan's codes, or in float."""
        name = step.outputs[index]
        shape, plan = self.model.shapes[step.node.output[index]], self.planned.get(name)
        if step.integer:
            assert plan is not None
            made = self.tensor(name, shape, order, CODES, plan.scale, plan.zero)
        else:
            made = self.tensor(f"{name}/float" if plan else name, shape, order)
        self.values[name] = made
        return made

    def read(self, name: str, integer: bool) -> Value:
        """Return a tensor of the graph as codes or as floats; constants are floats."""
        if name in self.model.constants:
            return self._constant(name)
        value = self.values[name]
        if integer or value.kind == FLOATS:
            return value
        if (name, FLOATS) not in self._formed:
            made = self.tensor(f"{value.name}/values", value.shape, value.order)
            self.operator("DEQUANTIZE", [value], [made])
            self._formed[name, FLOATS] = made
        return self._formed[name, FLOATS]

    def _constant(self, name: str) -> Value:
        if (name, "constant") not in self._formed:
            values = self.model.constants[name].astype(np.float32)
            number = self.file.constant(name, values)
            order = tuple(range(values.ndim))
            self._formed[name, "constant"] = Value(number, name, values.shape, order, values.shape)
        return self._formed[name, "constant"]

    def numbers(self, name: str, values: object) -> int:
        """Add a constant of whole numbers, as operators take shapes and sizes."""
        return self.file.constant(name, np.asarray(values, np.int32))

    def rounded(self, value: Value, name: str) -> Value:
        """Bring floats, or codes of another scale, into the plan's codes."""
        plan = self.planned[name]
        made = self.tensor(name, value.shape, value.order, CODES, plan.scale, plan.zero)
        self.operator("QUANTIZE", [value], [made])
        return made

    def operator(
        self, op: str, inputs: Sequence[Value | int], outputs: Sequence[Value], **fields: object
    ) -> None:
        """Add an operator that reads values, or constants by their number."""
        read = [self._settled(x).number if isinstance(x, Value) else x for x in inputs]
        self.file.operator(op, read, [x.number for x in outputs], **fields)

    def _settled(self, value: Value) -> Value:
        """Return a tensor that has the value's shape in the file too."""
        if value.stored == value.lies:
            return value
        key = (value.number, value.lies)
        if key not in self._formed:
            made = self.like(value, f"{value.name}/{'x'.join(map(str, value.lies))}")
            self.reshape(value, made)
            self._formed[key] = made
        return replace(self._formed[key], shape=value.shape, order=value.order)

    def reshape(self, value: Value, made: Value) -> None:
        """Add the RESHAPE of a value into a tensor."""
        shape = self.numbers(f"{made.name}/shape", made.lies)
        self.file.operator("RESHAPE", [value.number, shape], [made.number], newShape=[*made.lies])

    def laid(self, value: Value, order: Axes) -> Value:
        """Return a value with its axes in that order.

        Raises:
            UnsupportedError: that takes a transposition of more than four axes.
        """
        how = lay.moved(value.shape, value.order, order)
        if how is None:
            return value.seen_as(value.shape, order)
        key = (value.number, value.lies, order)
        if key not in self._formed:
            self._formed[key] = self._moved(value, order, *how)
        return self._formed[key].seen_as(value.shape, order)

    def _moved(self, value: Value, order: Axes, sizes: Axes, axes: Axes) -> Value:
        """Add a TRANSPOSE of four axes, which every chip's compiler reads."""
        if len(order) == len(PLAIN):
            flat = value.seen_as(value.lies, PLAIN)
            axes = tuple(value.order.index(a) for a in order)
        elif (ones := len(PLAIN) - len(sizes)) >= 0:
            flat = value.seen_as((*[1] * ones, *sizes), PLAIN)
            axes = (*range(ones), *(a + ones for a in axes))
        else:
            raise UnsupportedError(
                f"{value.name} is transposed over {len(sizes)} axes: a .tflite file has four", HINT
            )
        name = f"{value.name}/{''.join(map(str, order))}"
        shape = [flat.shape[a] for a in axes]
        made = self.tensor(name, shape, PLAIN, value.kind, value.scale, value.zero)
        self.operator("TRANSPOSE", [flat, self.numbers(f"{name}/axes", axes)], [made])
        return made
