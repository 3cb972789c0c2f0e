"""What each ONNX operation is in a .tflite file; with integers and with floats it is the same."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from onchip.quantize import weights as rounding
from onchip.spec import InputSpec
from onchip.targets.tflite import lay
from onchip.targets.tflite.file import Scales
from onchip.targets.tflite.lay import Axes
from onchip.targets.tflite.values import CODES, FLOATS, PLAIN, Step, Value, Writer

_Write = Callable[[Writer, Step], None]
Floats = npt.NDArray[np.floating]

GRID = lay.native(4)
SIGMOID = (1 / 256, -128)  # the one scale and zero point that LOGISTIC's codes may have
FINEST = 2.0**-30  # of a convolution's scale to that of its output: kernels refuse finer ones
WIDEST = float((1 << 31) - 1) / 2  # half of what a bias may be leaves room for the sum
RELU = 1  # the fused activation's number in the schema
SAME, VALID = 0, 1  # the padding's


def add(w: Writer, step: Step) -> None:
    """Write one node.

    Raises:
        UnsupportedError: the format has no operator for it, or not with these attributes.
    """
    if step.node.op_type not in _WRITERS:
        raise step.refused("there is no such operator")
    if any(0 in w.model.shapes.get(name, (0,)) for name in step.node.output):
        raise step.refused("a tensor has a shape that is known")
    _WRITERS[step.node.op_type](w, step)


def enter(w: Writer, spec: InputSpec) -> Value:
    """Write the input: the pixels as bytes, and what makes of them what the network reads.

    Where a pixel is its own code there is only the step from bytes to signed ones. Otherwise mean
    and std are a convolution of one pixel, for each colour by itself.
    """
    shape = (1, 3, spec.height, spec.width)
    step = spec.pixel or 1.0
    pixels = w.tensor(spec.name, shape, GRID, "uint8", step, 0)
    codes = w.tensor(f"{spec.name}/codes", shape, GRID, CODES, step, -128)
    w.operator("QUANTIZE", [pixels], [codes])
    w.values[spec.name] = codes if spec.uniform else _normalized(w, codes, spec)
    return pixels


def _normalized(w: Writer, pixels: Value, spec: InputSpec) -> Value:
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    plan = w.planned.get(spec.name)
    if plan is None:
        floats = w.tensor(f"{spec.name}/values", pixels.shape, GRID)
        w.operator("DEQUANTIZE", [pixels], [floats])
        scaled = w.tensor(f"{spec.name}/scaled", pixels.shape, GRID)
        found = w.tensor(f"{spec.name}/normalized", pixels.shape, GRID)
        factor = w.file.constant(f"{spec.name}/std", (1 / std).astype(np.float32))
        offset = w.file.constant(f"{spec.name}/mean", (mean / std).astype(np.float32))
        w.operator("MUL", [floats, factor], [scaled])
        w.operator("SUB", [scaled, offset], [found])
        return found
    steps = 1 / std / 127
    codes = np.full((1, 1, 1, 3), 127, np.int8)
    weight = w.file.constant(f"{spec.name}/std", codes, Scales(steps, axis=3))
    shift = np.rint(-mean * 127).astype(np.int32)
    bias = w.file.constant(f"{spec.name}/mean", shift, Scales(steps * pixels.scale))
    found = w.tensor(f"{spec.name}/normalized", pixels.shape, GRID, CODES, plan.scale, plan.zero)
    fields = {"padding": VALID, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
    w.operator("DEPTHWISE_CONV_2D", [pixels, weight, bias], [found], **fields)
    return found


# ---- windows: convolutions and pools


def _window(w: Writer, step: Step, kernel: Sequence[int]) -> tuple[list[int], Axes, Axes]:
    """Return the strides of a window, and how many places lie before and after, per axis.

    What lies after follows from the output's size, so that ONNX's rounding up is covered.
    """
    if len(kernel) != 2:
        raise step.refused("a window has two axes")
    strides = list(step.field("strides", [1, 1]))
    wide = [1 + (k - 1) * d for k, d in zip(kernel, step.field("dilations", [1, 1]), strict=True)]
    before_all = w.model.shapes[step.inputs[0]][2:]
    after_all = w.model.shapes[step.node.output[0]][2:]
    whole = [
        max((a - 1) * s + k - b, 0)
        for a, s, k, b in zip(after_all, strides, wide, before_all, strict=True)
    ]
    automatic = step.field("auto_pad", b"NOTSET")
    if automatic in (b"NOTSET", b"VALID"):
        before = list(step.field("pads", [0, 0, 0, 0]))[:2] if automatic == b"NOTSET" else [0, 0]
    else:
        before = [(n + (automatic == b"SAME_LOWER")) // 2 for n in whole]
    after = [max(n - b, 0) for n, b in zip(whole, before, strict=True)]
    return strides, tuple(before), tuple(after)


def _is_same(
    before: Axes, after: Axes, sizes: Sequence[int], made: Sequence[int], strides: Sequence[int]
) -> bool:
    """Whether a window's places beside the map are those of the format's own "same"."""
    split = all(b == (b + a) // 2 for b, a in zip(before, after, strict=True))
    whole = all(m == -(-n // s) for m, n, s in zip(made, sizes, strides, strict=True))
    return split and whole


def _padded(w: Writer, x: Value, before: Axes, after: Axes, least: bool = False) -> Value:
    """Put zeros around a map, or the least value that there is."""
    sizes = [n + b + a for n, b, a in zip(x.shape[2:], before, after, strict=True)]
    name = f"{x.name}/{'x'.join(map(str, (*before, *after)))}"
    made = w.tensor(name, (*x.shape[:2], *sizes), GRID, x.kind, x.scale, x.zero)
    around = [[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]]
    pads = w.numbers(f"{name}/pads", around)
    if not least or (x.kind == CODES and x.zero == -128):
        w.operator("PAD", [x, pads], [made])
        return made
    lowest = np.asarray(-128, np.int8) if x.kind == CODES else np.finfo(np.float32).min
    value = w.file.constant(f"{name}/least", np.asarray(lowest), x.scales)
    w.operator("PADV2", [x, pads, value], [made])
    return made


def _fitted(
    w: Writer, step: Step, kernel: Sequence[int], least: bool = False
) -> tuple[Value, dict[str, int]]:
    """Return what a window reads, and the fields that every window has."""
    x = w.laid(w.read(step.inputs[0], step.integer), GRID)
    strides, before, after = _window(w, step, kernel)
    padding = VALID
    if any((*before, *after)):
        made = w.model.shapes[step.node.output[0]][2:]
        if _is_same(before, after, x.shape[2:], made, strides):
            padding = SAME
        else:
            x = _padded(w, x, before, after, least)
    return x, {"padding": padding, "strideH": strides[0], "strideW": strides[1]}


def _conv(w: Writer, step: Step) -> None:
    weight = w.model.constants.get(step.inputs[1])
    if weight is None:
        raise step.refused("weights must be constants")
    values = np.asarray(weight, np.float32)
    x, fields = _fitted(w, step, values.shape[2:])
    groups, channels = step.field("group", 1), w.model.shapes[step.inputs[0]][1]
    depthwise = groups == channels > 1 and values.shape[1] == 1
    made = w.make(step, GRID)
    axes = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    operands = _weights(w, step, x, made, values, axes)
    high, wide = step.field("dilations", [1, 1])
    fields |= {"dilationHFactor": high, "dilationWFactor": wide}
    if depthwise:
        fields["depthMultiplier"] = len(values) // channels
    if step.clamped:
        fields["fusedActivationFunction"] = RELU
    op = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    w.operator(op, [x, *operands], [made], **fields)


def _weights(
    w: Writer, step: Step, x: Value, made: Value, values: npt.NDArray[np.float32], axes: Axes
) -> list[int]:
    """Write a layer's weight and bias, with their axes in the format's order."""
    bias = _bias(w, step, len(values))
    weight_name, bias_name = f"{step.name}/weight", f"{step.name}/bias"
    if not step.integer:
        weight = w.file.constant(weight_name, values.transpose(axes))
        return [weight, w.file.constant(bias_name, bias.astype(np.float32))]
    layer = w.layers[step.name]
    bias = bias - np.asarray(layer.bias_shift or 0.0)
    # channels that are all but zero: their bias must fit, and kernels take no scale at all
    least = np.maximum(np.abs(bias) / (WIDEST * x.scale), FINEST * made.scale / x.scale)
    scales = np.maximum(np.asarray(layer.scales), least).astype(np.float32)
    if layer.codes:
        values = layer.rounded(values, w.plan.quant)
    codes = rounding.codes(values, scales, w.plan.quant).transpose(axes)
    weight = w.file.constant(weight_name, codes, Scales(scales, axis=axes.index(0)))
    steps = (scales * np.float32(x.scale)).astype(np.float32)
    whole = np.rint(bias / steps).astype(np.int32)
    return [weight, w.file.constant(bias_name, whole, Scales(steps))]


def _bias(w: Writer, step: Step, count: int) -> npt.NDArray[np.float64]:
    """Return a layer's bias, one for each of its results; zeros where it has none."""
    name = step.inputs[2] if len(step.inputs) > 2 else ""
    if name and name not in w.model.constants:
        raise step.refused("a bias must be constant")
    given = w.model.constants[name] if name else 0
    return np.broadcast_to(np.asarray(given, np.float64), (count,))


def _transposed_conv(w: Writer, step: Step) -> None:
    weight = w.model.constants.get(step.inputs[1])
    if step.integer or weight is None or step.field("group", 1) != 1:
        raise step.refused("this transposed convolution cannot be said")
    values = np.asarray(weight, np.float32)
    x = w.laid(w.read(step.inputs[0], False), GRID)
    strides, pads = step.field("strides", [1, 1]), step.field("pads", [0] * 4)
    made = w.make(step, GRID)
    exact = all(
        m == (n - 1) * s + k
        for m, n, s, k in zip(made.shape[2:], x.shape[2:], strides, values.shape[2:], strict=True)
    )
    if any(pads) or not exact:
        raise step.refused("a transposed convolution has no padding")
    shape = w.numbers(f"{step.name}/shape", made.lies)
    weights = w.file.constant(f"{step.name}/weight", values.transpose(1, 2, 3, 0))
    bias = _bias(w, step, values.shape[1]).astype(np.float32)
    biases = w.file.constant(f"{step.name}/bias", bias)
    fields = {"padding": VALID, "strideH": strides[0], "strideW": strides[1]}
    w.operator("TRANSPOSE_CONV", [shape, weights, x, biases], [made], **fields)


def _max_pool(w: Writer, step: Step) -> None:
    kernel = step.field("kernel_shape")
    if any(d != 1 for d in step.field("dilations", [1, 1])) or len(step.outputs) > 1:
        raise step.refused("a pool has no dilation and one result")
    x, fields = _fitted(w, step, kernel, least=True)
    size = {"filterHeight": kernel[0], "filterWidth": kernel[1]}
    w.operator("MAX_POOL_2D", [x], [w.make(step, GRID)], **fields, **size)


def _average_pool(w: Writer, step: Step) -> None:
    kernel = step.field("kernel_shape")
    strides, before, after = _window(w, step, kernel)
    x = w.laid(w.read(step.inputs[0], step.integer), GRID)
    made = w.model.shapes[step.node.output[0]][2:]
    padding = VALID
    if any((*before, *after)):
        counted = step.field("count_include_pad", 0)
        if counted:
            x = _padded(w, x, before, after)
        elif _is_same(before, after, x.shape[2:], made, strides):
            padding = SAME
        else:
            raise step.refused("such padding of an average cannot be said")
    fields = {"padding": padding, "strideH": strides[0], "strideW": strides[1]}
    fields |= {"filterHeight": kernel[0], "filterWidth": kernel[1]}
    w.operator("AVERAGE_POOL_2D", [x], [w.make(step, GRID)], **fields)


# ---- what moves values


def _concat(w: Writer, step: Step) -> None:
    read = [w.read(name, step.integer) for name in step.inputs]
    order = next(x.order for x in read if x.name not in w.model.constants)
    made = w.make(step, order)
    axis = order.index(step.field("axis") % len(order))
    w.operator("CONCATENATION", [w.laid(x, order) for x in read], [made], axis=axis)


def _split(w: Writer, step: Step) -> None:
    x = w.read(step.inputs[0], step.integer)
    axis = step.field("axis", 0) % len(x.order)
    made = [w.make(step, x.order, n) for n in range(len(step.outputs))]
    sizes = [m.shape[axis] for m in made]
    if len(set(sizes)) == 1:
        where = w.numbers(f"{step.name}/axis", x.order.index(axis))
        w.operator("SPLIT", [where, x], made, numSplits=len(made))
        return
    start = 0
    for part, size in zip(made, sizes, strict=True):
        _cut(w, x, part, {axis: start})
        start += size


def _cut(w: Writer, x: Value, made: Value, starts: dict[int, int]) -> None:
    """Write a SLICE that begins at `starts`, axis to place, and has the size of what it makes."""
    begin = w.numbers(f"{made.name}/begin", [starts.get(a, 0) for a in x.order])
    w.operator("SLICE", [x, begin, w.numbers(f"{made.name}/size", made.lies)], [made])


def _slice(w: Writer, step: Step) -> None:
    x = w.read(step.inputs[0], step.integer)
    given = [w.model.constants.get(n) if n else None for n in step.inputs[1:]]
    starts = given[0]
    if starts is None or any(g is None for n, g in zip(step.inputs[1:], given, strict=True) if n):
        raise step.refused("where it begins must be constant")
    rank = len(x.shape)
    axes = given[2].tolist() if len(given) > 2 and given[2] is not None else range(len(starts))
    steps = given[3].tolist() if len(given) > 3 and given[3] is not None else [1] * len(starts)
    if any(s < 1 for s in steps):
        raise step.refused("nothing is read backwards")
    made = w.make(step, x.order)
    first = {
        a % rank: min(s + x.shape[a] if s < 0 else s, x.shape[a])
        for a, s in zip(axes, starts.tolist(), strict=True)
    }
    first = {a: max(s, 0) for a, s in first.items()}
    by = {a % rank: s for a, s in zip(axes, steps, strict=True)}
    if set(steps) == {1}:
        _cut(w, x, made, first)
        return
    begin = [first.get(a, 0) for a in x.order]
    every = [by.get(a, 1) for a in x.order]
    end = [b + (n - 1) * s + 1 for b, n, s in zip(begin, made.lies, every, strict=True)]
    where = [w.numbers(f"{step.name}/{k}", v) for k, v in (("begin", begin), ("end", end))]
    w.operator("STRIDED_SLICE", [x, *where, w.numbers(f"{step.name}/steps", every)], [made])


def _reshape(w: Writer, step: Step) -> None:
    x = w.read(step.inputs[0], step.integer)
    shape = w.model.shapes[step.outputs[0]]
    needed, made = lay.reshaped(x.shape, x.order, shape)
    w.values[step.outputs[0]] = w.laid(x, needed).seen_as(shape, made)


def _transpose(w: Writer, step: Step) -> None:
    x = w.read(step.inputs[0], step.integer)
    axes = step.field("perm", list(range(len(x.shape)))[::-1])
    order = tuple(axes.index(a) for a in x.order)
    w.values[step.outputs[0]] = x.seen_as(tuple(x.shape[a] for a in axes), order)


def _resize(w: Writer, step: Step) -> None:
    x = w.laid(w.read(step.inputs[0], step.integer), GRID)
    made = w.make(step, GRID)
    sizes = w.numbers(f"{step.name}/sizes", made.shape[2:])
    mode = step.field("mode", b"nearest").decode()
    how = step.field("coordinate_transformation_mode", b"half_pixel").decode()
    if mode == "nearest":
        places = _nearest(step, x.shape[2:], made.shape[2:], how)
        w.operator("RESIZE_NEAREST_NEIGHBOR", [x, sizes], [made], **places)
    elif mode == "linear" and "half_pixel" in how and _is_half(x, made):
        fields = {"padding": VALID, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
        w.operator("AVERAGE_POOL_2D", [x], [made], **fields)
    elif mode == "linear" and how in _LINEAR and x.shape[:2] == made.shape[:2]:
        w.operator("RESIZE_BILINEAR", [x, sizes], [made], **_LINEAR[how])
    else:
        raise step.refused(f"resizing by {mode}, {how} cannot be said")


def _is_half(x: Value, made: Value) -> bool:
    """Whether each result is the mean of four neighbours, which chips that resize up only have."""
    return x.shape == (*made.shape[:2], 2 * made.shape[2], 2 * made.shape[3])


_LINEAR = {
    "half_pixel": {"halfPixelCenters": True},
    "pytorch_half_pixel": {"halfPixelCenters": True},
    "asymmetric": {},
    "align_corners": {"alignCorners": True},
}


_ROUNDS: dict[str, Callable[[Floats], Floats]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
}


def _nearest(step: Step, before: Sequence[int], after: Sequence[int], how: str) -> dict[str, bool]:
    """Return the fields of a resize that picks the very places that ONNX's picks."""
    half = {"asymmetric": 0.0, "half_pixel": 0.5, "pytorch_half_pixel": 0.5}.get(how)
    if half is None:
        raise step.refused(f"resizing by nearest, {how} cannot be said")
    rounds = _ROUNDS[step.field("nearest_mode", b"round_prefer_floor").decode()]

    def same(shift: float) -> bool:
        for old, new in zip(before, after, strict=True):
            places = np.arange(new, dtype=np.float64)
            wanted = np.clip(rounds((places + half) * old / new - half), 0, old - 1)
            found = np.floor((places + shift) * old / new)
            if not np.array_equal(wanted, np.minimum(found, old - 1)):
                return False
        return True

    if same(0.0):
        return {}
    if same(0.5):
        return {"halfPixelCenters": True}
    raise step.refused(f"resizing by nearest, {how} from {before} to {after} cannot be said")


# ---- what computes with each value


def _pair(op: str) -> _Write:
    def write(w: Writer, step: Step) -> None:
        first, second = (w.read(name, step.integer) for name in step.inputs)
        rank = max(len(first.shape), len(second.shape))
        first, second = (_of_rank(x, rank) for x in (first, second))
        order = second.order if step.inputs[0] in w.model.constants else first.order
        made = w.make(step, order)
        w.operator(op, [w.laid(first, order), w.laid(second, order)], [made])

    return write


def _of_rank(x: Value, rank: int) -> Value:
    """Return a value with axes of 1 before its own."""
    more = rank - len(x.shape)
    order = (*range(more), *(a + more for a in x.order))
    return x.seen_as((*[1] * more, *x.shape), order) if more else x


def _single(op: str) -> _Write:
    def write(w: Writer, step: Step) -> None:
        x = w.read(step.inputs[0], step.integer)
        w.operator(op, [x], [w.make(step, x.order)])

    return write


def _sigmoid(w: Writer, step: Step) -> None:
    x = w.read(step.inputs[0], step.integer)
    name = step.outputs[0]
    plan = w.planned.get(name)
    if not step.integer or (plan is not None and (plan.scale, plan.zero) == SIGMOID):
        w.operator("LOGISTIC", [x], [w.make(step, x.order)])
        return
    unit = w.tensor(f"{name}/unit", x.shape, x.order, CODES, *SIGMOID)
    w.operator("LOGISTIC", [x], [unit])
    w.values[name] = w.rounded(unit, name)


def _leaky(w: Writer, step: Step) -> None:
    x = w.read(step.inputs[0], step.integer)
    w.operator("LEAKY_RELU", [x], [w.make(step, x.order)], alpha=step.field("alpha", 0.01))


def _clip(w: Writer, step: Step) -> None:
    ends = [w.model.constants.get(n) if n else None for n in (*step.inputs[1:], "", "")[:2]]
    low, high = (None if e is None else float(e) for e in ends)
    x = w.read(step.inputs[0], step.integer)
    if low == 0 and high in (6, None):
        w.operator("RELU6" if high else "RELU", [x], [w.make(step, x.order)])
        return
    for name, end, op in (("least", low, "MAXIMUM"), ("most", high, "MINIMUM")):
        if end is not None:
            made = w.like(x, f"{step.outputs[0]}/{name}")
            w.operator(op, [x, _limit(w, made.name, end, x)], [made])
            x = made
    name = step.outputs[0]
    w.values[name] = w.rounded(x, name) if step.integer else x


def _limit(w: Writer, name: str, end: float, x: Value) -> int:
    if x.kind == FLOATS:
        return w.file.constant(f"{name}/value", np.asarray(end, np.float32))
    code = np.clip(np.rint(end / x.scale) + x.zero, -128, 127).astype(np.int8)
    return w.file.constant(f"{name}/value", np.asarray(code), x.scales)


def _mean(w: Writer, step: Step) -> None:
    """Take the mean of each map."""
    x = w.laid(w.read(step.inputs[0], step.integer), GRID)
    axes = w.numbers(f"{step.name}/axes", [1, 2])
    w.operator("MEAN", [x, axes], [w.make(step, GRID)], keepDims=True)


def _softmax(w: Writer, step: Step) -> None:
    x = w.read(step.inputs[0], step.integer)
    axis = step.field("axis", -1) % len(x.shape)
    order = (*(a for a in x.order if a != axis), axis)
    w.operator("SOFTMAX", [w.laid(x, order)], [w.make(step, order)], beta=1.0)


def _matmul(w: Writer, step: Step) -> None:
    read = [w.read(name, step.integer) for name in step.inputs]
    rank = max(len(x.shape) for x in read)
    if rank > len(PLAIN) or min(len(x.shape) for x in read) < 2:
        raise step.refused("a product of matrices has two to four axes")
    order = tuple(range(rank))
    made = w.make(step, order)
    w.operator("BATCH_MATMUL", [w.laid(_of_rank(x, rank), order) for x in read], [made])


def _dense(w: Writer, step: Step) -> None:
    weight = w.model.constants.get(step.inputs[1])
    factors = [step.field(name, 1.0) for name in ("alpha", "beta")]
    if weight is None or factors != [1, 1] or step.field("transA", 0) or step.integer:
        raise step.refused("this product of matrices cannot be said")
    values = np.asarray(weight, np.float32)
    values = values if step.field("transB", 0) else values.T
    x = w.laid(w.read(step.inputs[0], False), (0, 1))
    weights = w.file.constant(f"{step.name}/weight", values)
    bias = _bias(w, step, len(values)).astype(np.float32)
    biases = w.file.constant(f"{step.name}/bias", bias)
    w.operator("FULLY_CONNECTED", [x, weights, biases], [w.make(step, (0, 1))])


def _same(w: Writer, step: Step) -> None:
    w.values[step.outputs[0]] = w.read(step.inputs[0], step.integer)


_WRITERS: dict[str, _Write] = {
    "Add": _pair("ADD"),
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _transposed_conv,
    "Div": _pair("DIV"),
    "Exp": _single("EXP"),
    "Flatten": _reshape,
    "Gemm": _dense,
    "GlobalAveragePool": _mean,
    "HardSwish": _single("HARD_SWISH"),
    "Identity": _same,
    "LeakyRelu": _leaky,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _pair("MUL"),
    "Relu": _single("RELU"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _reshape,
    "Sub": _pair("SUB"),
    "Tanh": _single("TANH"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
