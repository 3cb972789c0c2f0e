"""The numbers of the optimization: calibrated, rounded, run. onchip's own emulation computes them.

Level 0 takes the ranges as they were seen, and scales for weights that are half way between one for
each channel and one for all; level 1 the best scales, and corrects biases; from level 2 on (or with
a finetune) the ranges are those that lose least. So a reduced level is worse here, which on the
real compiler it need not be.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec.structs
import numpy as np
import onnx
from onnx import TensorProto, helper

from hailo_standin import knob
from hailo_standin.network import Array, Layer
from hailo_standin.parse import Parsed
from hailo_standin.payload import Program
from hailo_standin.recipe import Recipe
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.quantize.activations import function
from onchip.quantize.emit import emit
from onchip.quantize.plan import LayerPlan, QuantPlan, TensorPlan, make_plan
from onchip.quantize.ranges import fit
from onchip.quantize.regions import divide
from onchip.quantize.stats import Stats
from onchip.spec import HeadSpec, HeadTensor, InputSpec, QuantSpec

MOVES = frozenset({"Split", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})
SHARED = MOVES | {"Concat", "MaxPool", "Resize", "Identity"}
ACTIVATIONS = frozenset({"silu", "relu", "relu6", "sigmoid", "hardswish", "tanh", "leakyrelu"})
QUANT = QuantSpec(
    ops=SHARED
    | {"Conv", "ConvTranspose", "Gemm", "Add", "Sub", "Mul", "AveragePool", "GlobalAveragePool"}
    | {"MatMul", "Softmax", "Sigmoid", "Relu", "LeakyRelu", "Clip", "HardSwish", "Tanh"},
    shared=SHARED,
    fused=ACTIVATIONS,
    fused_depthwise=ACTIVATIONS,
    folded=frozenset({"Sigmoid"}),
    raised=("int16",),
)
PLACES = 10  # rows and columns sampled per map
CUT = 1 / 8  # what is left of a range that a test damages
NODES = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


@dataclass(frozen=True)
class Coded:
    """How a layer's values are coded: `value = (code - zero) * scale`, and what was seen of them."""

    scale: float
    zero: int
    bits: int
    low: float
    high: float


@dataclass(frozen=True)
class Network:
    """A network as the script made it, in float."""

    model: Model
    tensors: dict[str, str]  # of each last layer, in the order of the end nodes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    def program(self, graph: bytes | None = None) -> Program:
        """It, or its quantized graph, as something that takes pixels."""
        entry = self.model.inputs[0].name
        data = graph if graph is not None else self.model.bytes
        return Program(data, entry, self.mean, self.std, self.bgr, dict(self.tensors))


@dataclass(frozen=True)
class Quantized:
    """A quantized network: its graph, and the codes at its borders."""

    graph: bytes
    input: Coded
    outputs: dict[str, Coded]


def names(parsed: Parsed) -> dict[str, str]:
    """Return the tensor of each last layer; a layer with several ends counts them."""
    found: dict[str, str] = {}
    for end in parsed.network.ends:
        name = end.inputs[0].name
        while name in found:
            name += "_"
        found[name] = end.tensor
    return found


def native(parsed: Parsed) -> Network:
    """Return a network as it was parsed."""
    return Network(parsed.network.model, names(parsed), (0.0,) * 3, (1.0,) * 3, False)


def modified(parsed: Parsed, recipe: Recipe) -> Network:
    """Return a network with what a script adds to it."""
    network, proto = parsed.network, onnx.ModelProto()
    proto.CopyFrom(network.model.proto)
    tensors = names(parsed)
    for name, wanted in recipe.activations.items():
        layer = network.layer(name)
        assert layer is not None
        tensors[name] = _changed(proto, layer, wanted)
    del proto.graph.output[:]
    proto.graph.output.extend(
        helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in tensors.values()
    )
    _, mean, std = recipe.normalization or ("", (0.0,) * 3, (1.0,) * 3)
    model = network.model.changed(proto)
    return Network(model, tensors, mean, std, bool(recipe.conversion))


def _changed(proto: onnx.ModelProto, layer: Layer, wanted: str) -> str:
    """Give a layer another activation; return the tensor that it makes then."""
    if wanted == layer.activation:
        return layer.tensor
    if wanted == "linear":
        return layer.raw
    made = f"{layer.raw}/{wanted}"
    node = helper.make_node(NODES[wanted], [layer.raw], [made], f"{layer.nodes[0]}/{wanted}")
    proto.graph.node.append(node)
    return made


class Watch:
    """Folds what is seen of a network's tensors into statistics, frame by frame."""

    def __init__(self, network: Network, parsed: Parsed, recipe: Recipe) -> None:
        self.network, self.parsed, self.recipe = network, parsed, recipe
        self.regions = divide(network.model, _head(network), QUANT)
        self.seen: dict[str, Stats] = {}
        self.frames = 0
        made = network.model.producers
        self._names = [t for t in self.regions.watched if t in made]
        self._run = Runner(_sampled(network, self._names).SerializeToString(), threads=0)

    def take(self, tensor: Array) -> None:
        """Run one frame, `(1, C, H, W)` as the network wants it."""
        for name, values in zip(self._names, self._run.run(tensor), strict=True):
            flat = (
                values[0].reshape(values.shape[1], -1)
                if values.ndim == 4
                else values.reshape(1, -1)
            )
            self._add(name, flat)
            for derived, (raw, activation) in self.regions.derived.items():
                if raw == name:
                    self._add(derived, function(activation)(flat).astype(np.float32))
        self._add(self.network.model.inputs[0].name, tensor[0].reshape(tensor.shape[1], -1))
        self.frames += 1

    def _add(self, name: str, values: Array) -> None:
        self.seen.setdefault(name, Stats()).add(values, np.ones(values.shape[1]))

    def range(self, tensor: str) -> tuple[float, float]:
        """The lowest and highest value seen."""
        stats = self.seen[tensor]
        return float(stats.low.min()), float(stats.high.max())


def _head(network: Network) -> HeadSpec:
    """The outputs, as nothing in particular."""
    tensors = tuple(
        HeadTensor(name=t, node=t, role="all", stride=1.0, start=0, stop=1, activated=True)
        for t in network.tensors.values()
    )
    return HeadSpec(family="any", coding="found", scoring="class", labels=(), tensors=tensors)


def _sampled(network: Network, watched: Iterable[str]) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(network.model.proto)
    del proto.graph.output[:]
    for number, name in enumerate(watched):
        shape, made = network.model.shapes.get(name, ()), name
        step = max(1, max(shape[2:]) // PLACES) if len(shape) == 4 else 1
        if step > 1 and name not in network.tensors.values():
            made = f"sample_{number}"
            fields = {"kernel_shape": [1, 1], "strides": [step, step]}
            proto.graph.node.append(helper.make_node("MaxPool", [name], [made], **fields))
        proto.graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, None))
    return proto


def quantize(watch: Watch, level: int, narrow: Iterable[str], wide: Iterable[str]) -> Quantized:
    """Turn what was seen into a quantized graph.

    Args:
        watch: what was seen.
        level: how hard to try: 0, 1, or more.
        narrow: layers whose weights get 4 bits.
        wide: layers whose output gets 16.
    """
    model, recipe = watch.network.model, watch.recipe
    network = watch.parsed.network
    sixteen = [x.nodes[0] for x in network.layers if x.name in set(wide) and x.weighted]
    plan = make_plan(
        model, watch.regions, watch.seen, QUANT, _input(watch.network), images=watch.frames,
        wide=sixteen,
    )  # fmt: skip
    if level < 2:
        plan = _as_seen(plan, watch, level)
    plan = _outputs(plan, watch)
    slim = {x.nodes[0]: x for x in network.layers if x.name in set(narrow)}
    plan = msgspec.structs.replace(
        plan, layers=tuple(_four(x, slim, network.kernel) for x in plan.layers)
    )
    graph = emit(model, watch.regions, plan).SerializeToString()
    coded = {t.name: _coded(t, watch, QUANT) for t in plan.tensors if t.name in watch.seen}
    entry = model.inputs[0].name
    start = Coded(1.0, 0, 8, 0.0, 255.0) if recipe.normalization else coded[entry]
    outputs = {n: coded[t] for n, t in watch.network.tensors.items()}
    return Quantized(graph, start, outputs)


def _input(network: Network) -> InputSpec:
    name, shape = network.model.inputs[0].name, network.model.inputs[0].shape
    # without a normalization the codes are what calibration saw, not the pixels
    mean = network.mean if set(network.std) != {1.0} or any(network.mean) else (1.0, 1.0, 1.0)
    size = {"width": shape[3], "height": shape[2]}
    return InputSpec(name=name, mean=mean, std=network.std, **size)  # type: ignore[arg-type]


def _as_seen(plan: QuantPlan, watch: Watch, level: int) -> QuantPlan:
    """Return a plan with ranges as they were seen; at level 0 also with biases as they are."""
    ranges: dict[str, list[tuple[float, float]]] = {}
    for t in plan.tensors:
        if t.name in watch.seen:
            ranges.setdefault(t.group, []).append(watch.range(t.name))
    uniform = {watch.network.model.inputs[0].name} if watch.recipe.normalization else set()
    tensors = []
    for t in plan.tensors:
        if t.group in ranges and t.group not in uniform:
            low = min(r[0] for r in ranges[t.group])
            high = max(r[1] for r in ranges[t.group])
            t = _ranged(t, low, high, plan.quant)
        tensors.append(t)
    layers = plan.layers
    if level == 0:
        depthwise = {x.node for x in watch.regions.layers if x.depthwise}
        layers = tuple(_rough(x, x.node in depthwise) for x in layers)
    return msgspec.structs.replace(plan, tensors=tuple(tensors), layers=layers)


def _rough(layer: LayerPlan, depthwise: bool) -> LayerPlan:
    """Return a layer with its bias as it is, and scales half way to one for all channels."""
    if not layer.scales or depthwise:
        return msgspec.structs.replace(layer, bias_shift=())
    scales = np.sqrt(np.asarray(layer.scales) * max(layer.scales))
    return msgspec.structs.replace(layer, bias_shift=(), scales=tuple(map(float, scales)))


def _ranged(tensor: TensorPlan, low: float, high: float, quant: QuantSpec) -> TensorPlan:
    scale, zero = fit(low, high, quant.with_bits(tensor.bits))
    return msgspec.structs.replace(tensor, scale=scale, zero=zero)


def _outputs(plan: QuantPlan, watch: Watch) -> QuantPlan:
    """Choose the ranges of the outputs: calibrated, or whole where nothing follows a sigmoid."""
    layers = {t: n for n, t in watch.network.tensors.items()}
    hurt = damaged(watch.parsed)
    entry = watch.network.model.inputs[0].name
    tensors = []
    for t in plan.tensors:
        name = layers.get(t.name)
        if t.name == entry and watch.recipe.normalization is None:
            t = _ranged(t, *watch.range(entry), plan.quant)
        if name is not None:
            low, high = watch.range(t.name)
            if is_sigmoid(watch, name) and watch.recipe.post is None:
                low, high = 0.0, 1.0
            low, high = watch.recipe.forced.get(name, (low, high))
            if name in hurt:
                low, high = low * CUT, high * CUT
            if name in hurt or is_sigmoid(watch, name) or name in watch.recipe.forced:
                t = _ranged(t, low, high, plan.quant)
        tensors.append(t)
    return msgspec.structs.replace(plan, tensors=tuple(tensors))


def is_sigmoid(watch: Watch, name: str) -> bool:
    """Whether a last layer ends in a sigmoid."""
    layer = watch.parsed.network.layer(name)
    return layer is not None and watch.recipe.activations.get(name, layer.activation) == "sigmoid"


def damaged(parsed: Parsed) -> set[str]:
    """Return the last layers that a test wants to be spoilt."""
    if not knob("DAMAGE") or parsed.structure is None:
        return set()
    which = slice(0, 1) if knob("DAMAGE") == "boxes" else slice(1, None)
    nodes = {n for g in parsed.structure.grids for n in g.convs[which]}
    return {x.name for x in parsed.network.outputs if nodes & set(x.nodes)}


def _four(
    layer: LayerPlan, slim: Mapping[str, Layer], kernel: Callable[[Layer], Array]
) -> LayerPlan:
    """Give a layer's weights 15 codes."""
    if layer.node not in slim or not layer.scales:
        return layer
    weights = np.abs(kernel(slim[layer.node]))
    most = weights.reshape(len(weights), -1).max(1)
    return msgspec.structs.replace(layer, scales=tuple(float(m) / 7 or 1.0 for m in most))


def _coded(tensor: TensorPlan, watch: Watch, quant: QuantSpec) -> Coded:
    low, high = tensor.limits(quant)
    seen = watch.range(tensor.name)
    return Coded(
        tensor.scale, tensor.zero, tensor.bits, max(low, min(seen[0], 0.0)), min(high, seen[1])
    )


def snr(watch: Watch, made: Quantized, frames: Iterable[Array]) -> dict[str, float]:
    """Return each last layer's signal to noise ratio in dB, over some frames of pixels."""
    float_, codes = watch.network.program(), watch.network.program(made.graph)
    power: dict[str, float] = dict.fromkeys(made.outputs, 0.0)
    noise = dict(power)
    for frame in frames:
        wanted, found = float_(frame), codes(frame)
        for name in power:
            power[name] += float((wanted[name] ** 2).sum())
            noise[name] += float(((wanted[name] - found[name]) ** 2).sum())
    if knob("SNR"):
        return dict.fromkeys(power, float(knob("SNR")))
    return {n: 10 * float(np.log10(max(power[n], 1e-12) / max(noise[n], 1e-12))) for n in power}


def pixels_to_tensor(network: Network, frame: Array) -> Array:
    """Turn one frame `(H, W, C)` into what the graph takes, as the chip would."""
    values: Array = frame.astype(np.float32)
    values = values[..., ::-1] if network.bgr else values
    values = (values - np.asarray(network.mean, np.float32)) / np.asarray(network.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)
