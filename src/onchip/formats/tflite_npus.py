"""Which operators of a TFLite network an NPU would run, and why it leaves the others.

`tflite_npus.toml` holds the operators of each family and names the rules below. Of Ethos-U they are
what Vela reports of itself, and are held against Vela in the tests; of the Edge TPU what Coral's
documentation says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from math import prod

import msgspec
from msgspec import Struct

from onchip.formats.tflite import EDGE_TPU, ETHOS_U, TfliteFile, TfliteOperator, TfliteTensor

ENDS = frozenset({"QUANTIZE", "DEQUANTIZE"})
MOST = 1 << 16  # of an axis, or a product of axes, in the NPU's registers
_ELEMENTWISE = frozenset(
    {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "CONCATENATION"}
    | {"PACK", "BATCH_MATMUL", "EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS"}
    | {"LESS_EQUAL", "LOGICAL_AND", "LOGICAL_OR", "SELECT", "SELECT_V2", "PRELU"}
)
_LAST_MAP = {"SPLIT": 1, "TRANSPOSE_CONV": 2}  # where the feature map is not the first input
_BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}


class Npu(Struct, frozen=True):
    """A family of NPUs, as the table describes it."""

    title: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    rules: tuple[str, ...]
    operators: dict[str, tuple[str, ...]]
    free: dict[str, tuple[str, ...]] = {}
    stops: bool = False


class Left(Struct, frozen=True):
    """An operator that is left to the processor, by number, and why."""

    number: int
    op: str
    name: str
    why: str


@dataclass(frozen=True)
class Placement:
    """How many of a network's operators an NPU runs, and which not, in the file's order."""

    npu: Npu
    count: int
    left: tuple[Left, ...]

    @property
    def on_npu(self) -> int:
        """How many it runs."""
        return self.count - len(self.left)

    @property
    def first(self) -> Left | None:
        """The first that it leaves; what turns floats into codes and back only if it is alone."""
        inner = (x for x in self.left if x.op not in ENDS)
        return next(inner, next(iter(self.left), None))

    def describe(self) -> str:
        """One line for people."""
        text = f"the {self.npu.title} would run {self.on_npu} of {self.count} operators"
        if (first := self.first) is None:
            return text
        text += f"; the first it leaves is {first.op} {first.name} ({first.why})"
        return f"{text}, and what follows" if self.npu.stops and first.op not in ENDS else text


@cache
def npus() -> dict[str, Npu]:
    """Return every family that onchip knows, by name."""
    data = files("onchip.formats").joinpath("tflite_npus.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, Npu])


def placed(file: TfliteFile, family: str) -> Placement:
    """Say which operators of a network a family of NPUs would run."""
    npu, left = npus()[family], []
    mapped, broken = set[int](), set[int]()  # tensors
    for number, operator in enumerate(file.operators):
        why = _why(file, operator, npu)
        if not why and npu.stops and broken.intersection(operator.inputs):
            why = "it follows one that is left"
        follows = (broken | mapped).intersection(operator.inputs)
        if not why:
            mapped.update(operator.outputs)
        elif follows:  # those at the very beginning do not end the NPU's part
            broken.update(operator.outputs)
        if why:
            outputs = file.shown(operator.outputs)
            left.append(Left(number, operator.op, outputs[0].name if outputs else "", why))
    return Placement(npu, len(file.operators), tuple(left))


def _why(file: TfliteFile, operator: TfliteOperator, npu: Npu) -> str:
    """Why an NPU does not run an operator; "" where it does."""
    if operator.op in (EDGE_TPU, ETHOS_U):
        return "" if operator.op == (EDGE_TPU if npu.stops else ETHOS_U) else "of another chip"
    if operator.op not in npu.operators or operator.custom:
        return "it has no such operator"
    case = Case(file, operator, npu)
    if not case.inputs or not case.outputs:
        return "it reads or gives nothing"
    rules = [r for r in npu.rules if operator.op not in npu.free.get(r, ())]
    for rule in (*rules, *npu.operators[operator.op]):
        if why := RULES[rule](case):
            return why
    return ""


class Case:
    """An operator with its tensors by what they are to it."""

    def __init__(self, file: TfliteFile, operator: TfliteOperator, npu: Npu) -> None:
        self.op, self.npu, self.options = operator.op, npu, operator.options
        given = [file.tensors[n] if n >= 0 else None for n in operator.inputs]
        self.outputs = file.shown(operator.outputs)
        first = _LAST_MAP.get(self.op, 0)
        numbers = range(len(given)) if self.op in _ELEMENTWISE else range(first, first + 1)
        self.inputs = tuple(t for n, t in enumerate(given) if t and n in numbers)
        self.parameters = tuple(t for n, t in enumerate(given) if t and n not in numbers)
        bias = _BIAS.get(self.op, 0)
        weights = bias and given[1 : 1 + 1]
        self.weights = next((t for t in weights or () if t), None)
        self.bias = given[bias] if bias and len(given) > bias else None

    @property
    def maps(self) -> tuple[TfliteTensor, ...]:
        """The feature maps that it reads and writes."""
        return (*self.inputs, *self.outputs)

    @property
    def strides(self) -> tuple[int, int]:
        """Of a kernel, down and across."""
        return self.options.get("stride_h", 1), self.options.get("stride_w", 1)

    @property
    def kernel(self) -> tuple[int, int]:
        """The rows and columns of a kernel."""
        if self.weights is not None and len(self.weights.shape) == 4:
            return self.weights.shape[1], self.weights.shape[2]
        return self.options.get("filter_h", 1), self.options.get("filter_w", 1)

    @property
    def padded(self) -> bool:
        """Whether a kernel reaches over the map's edges."""
        if self.options.get("padding"):
            return False
        before, after = self.size(self.inputs[0]), self.size(self.outputs[0])
        return any(
            (new - 1) * stride + (kernel - 1) * self.options.get(f"dilation_{a}", 1) + 1 > old
            for old, new, stride, kernel, a in zip(
                before[:2], after[:2], self.strides, self.kernel, "hw", strict=True
            )
        )

    def named(self, tensors: tuple[TfliteTensor, ...], wrong: str) -> str:
        """Say what is wrong with the first of some tensors."""
        return f"{tensors[0].name} {wrong}" if tensors else ""

    def size(self, tensor: TfliteTensor) -> tuple[int, int, int]:
        """Rows, columns and depth, of a tensor of any rank."""
        rows, columns, depth = (1, 1, 1, *tensor.shape)[-3:]
        return rows, columns, depth


Rule = Callable[[Case], str]


def _fixed(case: Case) -> str:
    found = tuple(t for t in (*case.maps, *case.parameters) if t.dynamic)
    return case.named(found, "may change its size")


def _types(case: Case) -> str:
    return _of_types(case, case.npu.types)


def _of_types(case: Case, types: tuple[str, ...]) -> str:
    found = tuple(t for t in case.maps if t.dtype not in types)
    return case.named(found, f"is {found[0].dtype}") if found else ""


def _quantized(case: Case) -> str:
    tensors = (*case.maps, case.weights) if case.weights else case.maps
    codes = (t for t in tensors if t.dtype != "int32")  # those may be plain numbers
    return case.named(tuple(t for t in codes if (t.scale or 0) <= 0), "has no scale")


def _one_scale(case: Case) -> str:
    return case.named(tuple(t for t in case.maps if t.channels > 1), "has a scale per channel")


def _zeros(case: Case) -> str:
    found = tuple(
        t
        for t in case.maps
        if (t.zero and t.dtype == "int32") or (t.dtype.startswith("u") and (t.zero or 0) < 0)
    )
    return case.named(found, "has an odd zero point")


def _zeros_wide(case: Case) -> str:
    ranges = {"int8": (-128, 127), "uint8": (0, 255)}
    found = tuple(
        t for t in case.inputs if not (r := ranges.get(t.dtype, (0, 0)))[0] <= (t.zero or 0) <= r[1]
    )
    return case.named(found, "has an odd zero point")


def _no(dtype: str) -> Rule:
    def rule(case: Case) -> str:
        return case.named(tuple(t for t in case.maps if t.dtype == dtype), f"is {dtype}")

    return rule


def _only(*dtypes: str) -> Rule:
    return lambda case: _of_types(case, dtypes)


def _weights_8(case: Case) -> str:
    weights = case.weights
    if weights is None or not weights.constant:
        return "its weights are not constant" if case.op != "FULLY_CONNECTED" else ""
    return "" if weights.dtype in ("int8", "uint8") else f"its weights are {weights.dtype}"


def _constant_bias(case: Case) -> str:
    if case.bias is None:
        return ""
    if not case.bias.constant:
        return "its bias is not constant"
    return "" if case.bias.dtype in ("int32", "int64") else f"its bias is {case.bias.dtype}"


def _constant_parameters(case: Case) -> str:
    return case.named(tuple(t for t in case.parameters if not t.constant), "is not constant")


def _stride_3(case: Case) -> str:
    return "" if all(1 <= s <= 3 for s in case.strides) else f"its stride is {max(case.strides)}"


def _stride_3_or_valid(case: Case) -> str:
    if not _stride_3(case):
        return ""
    dilated = any(case.options.get(f"dilation_{a}", 1) > 1 for a in "hw")
    return _stride_3(case) if dilated or case.padded else ""


def _transposed_stride(case: Case) -> str:
    (high, wide), kernel, rows = case.strides, case.kernel, case.size(case.inputs[0])
    flat = {(2, 1): rows[0] == kernel[0] == 1, (1, 2): rows[1] == kernel[1] == 1}
    good = (high == wide and high in (1, 2)) or flat.get((wide, high), False)
    return "" if good else f"its strides are {high} and {wide}"


def _average_pool(case: Case) -> str:
    high, wide = case.kernel
    fits = max(high, wide) <= 8 if case.padded else high <= 256 and high * wide <= MOST
    return "" if fits else f"its kernel is {wide}x{high}"


def _kernel_256(case: Case) -> str:
    high, wide = case.kernel
    return "" if high <= 256 and high * wide <= MOST else f"its kernel is {wide}x{high}"


def _same_scale(case: Case) -> str:
    scales = {(t.scale, t.zero) for t in case.maps}
    return "" if len(scales) == 1 else "its inputs and output have other scales"


def _same_type(case: Case) -> str:
    return "" if len({t.dtype for t in case.maps}) == 1 else "it changes the type"


def _same_shape(case: Case) -> str:
    return "" if len({t.shape for t in case.maps}) == 1 else "it changes the shape"


def _batch_1(case: Case) -> str:
    shape = case.inputs[0].shape
    return f"its batch is {shape[0]}" if len(shape) > 3 and shape[0] != 1 else ""


def _axes(case: Case) -> tuple[int, ...]:
    rank = len(case.inputs[0].shape)
    return tuple(a % rank for t in case.parameters for a in t.values) if rank else ()


def _mean(case: Case) -> str:
    shape, axes = case.inputs[0].shape, _axes(case)
    most = {"int8": 1 << 24, "uint8": 1 << 23, "int16": 1 << 16}.get(case.inputs[0].dtype, 0)
    if prod(shape[a] for a in axes) > most:
        return "it takes the mean of too many"
    deep = len(shape) - 1 in axes and 1 not in case.size(case.inputs[0])
    long = any(shape[a] > 4096 for a in axes)
    return "it takes the mean over the depth, or too far" if deep or long else ""


def _not_batch(case: Case) -> str:
    full = len(case.inputs[0].shape) == 4
    return "it works across the batch" if full and 0 in _axes(case) else ""


def _last_axis(case: Case) -> str:
    rank = len(case.inputs[0].shape)
    return "" if _axes(case) == (rank - 1,) else "it is not along the depth"


def _depth_127(case: Case) -> str:
    return "" if case.size(case.inputs[0])[2] <= 127 else "it is deeper than 127"


def _softmax(case: Case) -> str:
    rows, columns, _ = case.size(case.inputs[0])
    return "" if rows * columns <= MOST else f"it has {rows * columns} rows"


def _softmax_16000(case: Case) -> str:
    rows, columns, depth = case.size(case.inputs[0])
    return (
        "" if rows * columns == 1 and depth <= 16_000 else "it is not of one row of at most 16000"
    )


def _factors(case: Case) -> tuple[float, float] | None:
    """How much a resize grows rows and columns; None where it changes nothing, or grows a point."""
    before, after = case.size(case.inputs[0])[:2], case.size(case.outputs[0])[:2]
    if before == (1, 1) or before == after:
        return None
    less = 1 if case.options.get("align_corners") else 0
    high, wide = (
        1.0 if a == b else (b - less) / max(a - less, 1) for a, b in zip(before, after, strict=True)
    )
    return high, wide


def _resize(*allowed: int, half: tuple[int, ...] = ()) -> Rule:
    def rule(case: Case) -> str:
        found, (rows, columns, _) = _factors(case), case.size(case.outputs[0])
        if found is None:
            return ""
        high, wide = found
        halved = bool(half and case.options.get("half_pixel_centers"))
        flat = not halved and ((rows == 1 and high == 1) or (columns == 1 and wide == 1))
        factor = wide if rows == 1 else high
        fits = (high == wide or flat) and factor in (half if halved else allowed)
        return "" if fits else f"it resizes {high:g} and {wide:g} times"

    return rule


def _resize_two(case: Case) -> str:
    found = _factors(case) or (1.0,)
    good = all(f == int(f) and int(f) & (int(f) - 1) == 0 and f >= 1 for f in found)
    return "" if good else "it resizes by no power of two"


def _resize_1024(case: Case) -> str:
    if case.options.get("align_corners") and case.options.get("half_pixel_centers"):
        return "it aligns corners and takes half pixels"
    most = 2048 if case.options.get("align_corners") else 1024
    return "" if max(_factors(case) or (1.0,)) <= most else "it resizes too much"


def _positive_strides(case: Case) -> str:
    strides = case.parameters[2].values if len(case.parameters) > 2 else ()
    if any(s < 1 for s in strides):
        return "it steps backwards"
    depth = strides[-1] if len(strides) == len(case.inputs[0].shape) else 1
    return "it steps over channels" if depth > 1 else ""


def _unit_strides(case: Case) -> str:
    strides = case.parameters[2].values if len(case.parameters) > 2 else ()
    return f"its strides are {', '.join(map(str, strides))}" if set(strides) - {1} else ""


def _transpose(case: Case) -> str:
    shape = case.inputs[0].shape
    order = next((t.values for t in case.parameters), ())
    if order == tuple(range(len(shape))):
        return ""
    if len(order) != len(shape):
        return "its order is not known"
    if case.inputs[0].dtype == "int32":
        return _transpose_32(order, shape)
    inner, moved = shape[-3:], order[:-3] == tuple(range(len(shape) - 3))
    if moved and all(n == 1 for n in shape[:-3]):
        return "" if max(inner) <= MOST else f"it is larger than {MOST}"
    least = max((prod(c) for c in combinations(shape, max(len(shape) - 2, 0))), default=1)
    return "" if least <= MOST else f"the product of its axes is {least}"


def _transpose_32(order: tuple[int, ...], shape: tuple[int, ...]) -> str:
    if len(shape) > 4:
        return "it has more than four axes"
    start = 4 - len(shape)
    whole = tuple(range(start)) + tuple(a + start for a in order)
    n, h, w, c = (1,) * start + shape
    fits: dict[tuple[int, ...], bool] = {
        (0, 2, 1, 3): n == 1 and max(h, w) <= MOST and c <= 1 << 14,
        (0, 1, 3, 2): n * h <= MOST and max(w, c) <= MOST,
    }
    return "" if fits.get(whole, False) else "it has 32 bits"


def _gather(case: Case) -> str:
    same = case.options.get("axis") == case.options.get("batch_dims")
    return "" if same else "its axis is not the number of batch dimensions"


def _rank_3(case: Case) -> str:
    found = tuple(t for t in case.maps if prod(t.shape[:-3]) > 1)
    return case.named(found, "has more than three axes")


def _no_activation(case: Case) -> str:
    return "it has an activation" if case.options.get("activation") else ""


def _same_dilation(case: Case) -> str:
    high, wide = (case.options.get(f"dilation_{a}", 1) for a in "hw")
    return "" if high == wide else "it is dilated more one way"


def _no_dilation(case: Case) -> str:
    dilated = any(case.options.get(f"dilation_{a}", 1) > 1 for a in "hw")
    return "it is dilated" if dilated else ""


def _default_weights(case: Case) -> str:
    return "its weights are shuffled" if case.options.get("weights_format") else ""


RULES: Mapping[str, Rule] = {
    "average_pool": _average_pool,
    "batch_1": _batch_1,
    "bits_8": _only("int8", "uint8"),
    "constant_bias": _constant_bias,
    "constant_parameters": _constant_parameters,
    "default_weights": _default_weights,
    "depth_127": _depth_127,
    "fixed": _fixed,
    "gather": _gather,
    "int8_only": _only("int8"),
    "kernel_256": _kernel_256,
    "last_axis": _last_axis,
    "mean": _mean,
    "no32": _no("int32"),
    "no64": _no("int64"),
    "no_activation": _no_activation,
    "no_dilation": _no_dilation,
    "not_batch": _not_batch,
    "one_scale": _one_scale,
    "positive_strides": _positive_strides,
    "quantized": _quantized,
    "rank_3": _rank_3,
    "resize_1024": _resize_1024,
    "resize_8": _resize(2, 4, 8),
    "resize_8_half_2": _resize(2, 4, 8, half=(2,)),
    "resize_two": _resize_two,
    "same_dilation": _same_dilation,
    "same_scale": _same_scale,
    "same_shape": _same_shape,
    "same_type": _same_type,
    "signed": _only("int8", "int16"),
    "softmax": _softmax,
    "softmax_16000": _softmax_16000,
    "stride_3": _stride_3,
    "stride_3_or_valid": _stride_3_or_valid,
    "transpose": _transpose,
    "transposed_stride": _transposed_stride,
    "types": _types,
    "unit_strides": _unit_strides,
    "weights_8": _weights_8,
    "zeros": _zeros,
    "zeros_wide": _zeros_wide,
}
