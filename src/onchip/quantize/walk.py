"""Walk through a quantized network layer by layer, over many images at once.

What stands between two layers are codes: a byte a value, so that all images fit. A layer's new
weights are known before anything behind it is computed, and every part of the network is computed
once, by the kernels that will compute it later (ONNX Runtime fuses them in a part as in the whole).

Memory: the codes of the tensors that are still to be read, for all images. In a detector of 640
pixels that are about 3 MB an image at worst (the first maps), whatever the depth.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onchip.errors import ToolError
from onchip.graph.read import Model
from onchip.graph.run import Array, session, translated
from onchip.quantize.attention import attention
from onchip.quantize.attention import weights as place_weights
from onchip.quantize.weights import coded_bias
from onchip.several import each
from onchip.spec import HeadSpec

Codes = npt.NDArray[np.generic]  # (1, channels, rows, columns)
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Part:
    """The nodes between some tensors of codes and others."""

    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]


class Parts:
    """How a QDQ graph divides at its codes."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto
        graph = proto.graph
        self.constants = {t.name: t for t in graph.initializer}
        self.entry = graph.input[0].name
        self._makers = {name: node for node in graph.node for name in node.output}
        self._place = {node.output[0]: i for i, node in enumerate(graph.node)}
        self._codes = {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear"}

    @cached_property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """What each tensor of codes is made of: other codes, and the graph's input."""
        return {name: self.between(name).reads for name in self._codes}

    def between(self, *codes: str) -> Part:
        """Return the part that makes tensors of codes from those right before them."""
        nodes: dict[str, onnx.NodeProto] = {}
        reads: dict[str, None] = {}
        stack = list(codes)
        while stack:
            node = self._makers[stack.pop()]
            if node.output[0] in nodes:
                continue
            nodes[node.output[0]] = node
            for name in node.input:
                if name in self._codes or name == self.entry:
                    reads[name] = None
                elif name and name not in self.constants:
                    stack.append(name)
        return Part(self.ordered(nodes.values()), tuple(reads), codes)

    def ordered(self, nodes: Iterable[onnx.NodeProto]) -> tuple[onnx.NodeProto, ...]:
        """Return nodes in the graph's order, each once."""
        found = {self._place[n.output[0]]: n for n in nodes}
        return tuple(found[place] for place in sorted(found))

    def graph(self, part: Part, kinds: Mapping[str, int]) -> bytes:
        """Return a part as a graph, with the weights as they are now.

        Args:
            part: its nodes.
            kinds: the element type of each tensor that it reads, as ONNX counts them.
        """
        held = {n: self.constants[n] for p in part.nodes for n in p.input if n in self.constants}
        graph = helper.make_graph(
            part.nodes,
            "part",
            [helper.make_tensor_value_info(n, kinds[n], None) for n in part.reads],
            [helper.make_tensor_value_info(n, self.kind(n), None) for n in part.makes],
            list(held.values()),
        )
        imports = self._proto.opset_import
        proto = helper.make_model(graph, opset_imports=imports, ir_version=self._proto.ir_version)
        return bytes(proto.SerializeToString())

    def kind(self, codes: str) -> int:
        """The element type of a tensor of codes, as ONNX counts them."""
        return int(self.constants[self._makers[codes].input[2]].data_type)

    def step(self, codes: str) -> tuple[float, int]:
        """The scale and zero point of a tensor of codes."""
        scale, zero = (numpy_helper.to_array(self.constants[n]) for n in self._zeros(codes))
        return float(scale), int(zero)

    def _zeros(self, codes: str) -> list[str]:
        return list(self._makers[codes].input[1:3])

    def put(self, name: str, values: npt.NDArray[np.generic]) -> None:
        """Replace a constant."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)


class Walk:
    """The quantized network on its way, with the codes of every image.

    Args:
        qdq: the graph as `emit` writes it, for float inputs.
        tensors: whose codes will be asked for, each as often as it stands here, in an order in
            which the graph makes them.
        workers: how many images are computed at once.
    """

    def __init__(self, qdq: onnx.ModelProto, tensors: Sequence[str], workers: int = 2) -> None:
        self._parts = Parts(qdq)
        self._workers = workers
        self._held: dict[str, list[Codes]] = {}
        self._made: set[str] = set()
        self._images = 0
        self._left = self._readings([f"{t}/codes" for t in tensors])
        entry = self._parts.entry
        first = [n for n in self._left if entry in self._parts.sources[n]]
        self._first = self._missing(first)
        self._way = self._joined(self._first)
        self._entrance = self._session(self._way, {entry: int(TensorProto.FLOAT)})

    def _readings(self, wanted: Sequence[str]) -> dict[str, int]:
        """Count how often each tensor of codes will be read: asked for, and to make others."""
        left = dict.fromkeys(wanted, 0)
        stack = list(left)
        while stack:
            for source in self._parts.sources[stack.pop()]:
                if source == self._parts.entry:
                    continue
                if source not in left:
                    left[source] = 0
                    stack.append(source)
                left[source] += 1
        for name in wanted:
            left[name] += 1
        return left

    def enter(self, image: npt.NDArray[np.generic]) -> list[Codes]:
        """Return the first codes of an image, to be given to `begin`; from any thread."""
        with translated("ONNX Runtime cannot run the start of the graph", kind=ToolError):
            return list(self._entrance.run(None, {self._parts.entry: image}))

    def begin(self, entered: Sequence[list[Codes]]) -> None:
        """Start with what `enter` gave for every image."""
        self._images = len(entered)
        for name, codes in zip(self._way.makes, zip(*entered, strict=True), strict=True):
            self._held[name] = list(codes)
        self._made.update(self._first)

    def take(self, tensor: str) -> list[Codes]:
        """Return the codes of a tensor, for every image; what nobody reads any more is dropped.

        Every layer before it must have its last weights by now.
        """
        name = f"{tensor}/codes"
        if name not in self._made:
            self._make(name)
        found = self._held[name]
        self._read(name)
        return found

    def step(self, tensor: str) -> tuple[float, int]:
        """The scale and zero point of a tensor."""
        return self._parts.step(f"{tensor}/codes")

    def accept(self, node: str, codes: Codes, scales: Floats, bias: Floats, step: float) -> None:
        """Give a layer its last weights; `step` is the scale of its input."""
        bias_codes, bias_scales = coded_bias(bias, step, scales)
        self._parts.put(f"{node}/weight/codes", codes)
        self._parts.put(f"{node}/weight/scale", scales.astype(np.float32))
        self._parts.put(f"{node}/bias/codes", bias_codes)
        self._parts.put(f"{node}/bias/scale", bias_scales)

    @property
    def held_bytes(self) -> int:
        """How much is held for all images."""
        return sum(array.nbytes for arrays in self._held.values() for array in arrays)

    def _make(self, name: str) -> None:
        """Compute a tensor of codes, and those on the way to it."""
        missing = self._missing([name])
        part = self._joined(missing)
        run = self._session(part, {n: self._parts.kind(n) for n in part.reads})

        def one(image: int) -> list[Codes]:
            return list(run.run(None, {n: self._held[n][image] for n in part.reads}))

        with translated("ONNX Runtime cannot run a part of the graph", kind=ToolError):
            results = list(each(one, range(self._images), self._workers))
        for made, codes in zip(part.makes, zip(*results, strict=True), strict=True):
            self._held[made] = list(codes)
        self._made.update(missing)
        for tensor in missing:
            for source in self._parts.sources[tensor]:
                self._read(source)

    def _missing(self, names: Sequence[str]) -> list[str]:
        """Return tensors of codes, and those on the way to them, that are not made yet."""
        found: dict[str, None] = {}
        stack = list(names)
        while stack:
            each = stack.pop()
            if each != self._parts.entry and each not in self._made and each not in found:
                found[each] = None
                stack.extend(self._parts.sources[each])
        return list(found)

    def _joined(self, missing: Sequence[str]) -> Part:
        """Return one part that makes several tensors of codes; some of them stay inside it."""
        inside = dict.fromkeys(missing, 0)
        pieces = [self._parts.between(n) for n in missing]
        reads = [r for piece in pieces for r in piece.reads]
        for name in reads:
            if name in inside:
                inside[name] += 1
        return Part(
            self._parts.ordered([n for piece in pieces for n in piece.nodes]),
            tuple(dict.fromkeys(r for r in reads if r not in inside)),
            tuple(n for n in missing if self._left[n] > inside[n]),
        )

    def _session(self, part: Part, kinds: Mapping[str, int]) -> ort.InferenceSession:
        with translated("ONNX Runtime cannot load a part of the graph", kind=ToolError):
            return session(self._parts.graph(part, kinds), 1)

    def _read(self, name: str) -> None:
        self._left[name] -= 1
        if not self._left[name]:
            self._held.pop(name, None)


@dataclass(frozen=True)
class Places:
    """Where one image is sampled on maps of one size."""

    index: npt.NDArray[np.int64]  # (n,), row by row
    weights: npt.NDArray[np.float32]  # (n,)


def choose_places(importance: Floats, count: int, random: np.random.Generator) -> Places:
    """Return about `count` places: half where the network looks, half anywhere.

    Each counts so that weighted means are those over the whole map. They are drawn at even steps
    of the summed chances, which spreads them; a map of no more than `count` is taken whole.

    Args:
        importance: how much each place of the map counts, `(places,)`.
        count: how many.
        random: decides where the steps begin.
    """
    size = len(importance)
    if size <= count:
        return Places(np.arange(size), (importance / size).astype(np.float32))
    chance = 0.5 * importance / importance.sum() + 0.5 / size
    steps = (np.arange(count) + random.random()) / count
    index = np.minimum(np.searchsorted(np.cumsum(chance), steps), size - 1)
    weights = importance[index] / (chance[index] * size * count)
    return Places(index, weights.astype(np.float32))


@dataclass(frozen=True)
class Sampled:
    """What the float network makes of one image, at some places."""

    places: dict[tuple[int, int], Places]  # by the size of a map: rows, columns
    values: dict[str, Array]  # (n, channels) of each tensor


class Sampler:
    """Runs the float network and samples tensors `(1, channels, rows, columns)`.

    The tensors are written into arrays that are used again for the next image: where to look in
    them is known only when the last is there.

    Args:
        model: the float network, cut at its head.
        head: tells where in an image objects are.
        names: the tensors.
        count: places per map.
        seed: of the places.
        workers: how many images are computed at once.
    """

    def __init__(
        self,
        model: Model,
        head: HeadSpec,
        names: Sequence[str],
        count: int,
        seed: int,
        workers: int,
    ) -> None:
        self._head, self._names, self._count, self._seed = head, tuple(names), count, seed
        self._entry = model.inputs[0].name
        _, _, height, width = model.inputs[0].shape
        self._size = (width, height)
        shapes = {n: model.shapes[n] for n in dict.fromkeys([*names, *head.outputs])}
        with translated("ONNX Runtime cannot load the graph", kind=ToolError):
            self._session = session(_ending(model, list(shapes)), 1)
        self._free: SimpleQueue[dict[str, Array]] = SimpleQueue()
        for _ in range(workers):
            self._free.put({n: np.empty(s, np.float32) for n, s in shapes.items()})

    def __call__(self, number: int, image: npt.NDArray[np.generic]) -> Sampled:
        """Return what is seen of one image; `number` decides its places. From any thread."""
        found = self._free.get()
        try:
            self._run(image, found)
            return self._sampled(number, found)
        finally:
            self._free.put(found)

    def _run(self, image: npt.NDArray[np.generic], found: dict[str, Array]) -> None:
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._entry, np.ascontiguousarray(image))
        for name, array in found.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        with translated("ONNX Runtime cannot run the graph", kind=ToolError):
            self._session.run_with_iobinding(binding)

    def _sampled(self, number: int, found: dict[str, Array]) -> Sampled:
        looks = attention(self._head, found, self._size)
        random = np.random.default_rng((self._seed, number))
        places: dict[tuple[int, int], Places] = {}
        values = {}
        for name in self._names:
            rows, columns = size = found[name].shape[2:]
            if size not in places:
                importance = place_weights(looks, rows, columns)
                places[size] = choose_places(importance, self._count, random)
            flat = found[name].reshape(-1, rows * columns)
            values[name] = np.ascontiguousarray(flat.take(places[size].index, axis=1).T)
        return Sampled(places, values)


def _ending(model: Model, names: Sequence[str]) -> bytes:
    """Return the graph with other outputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    for name in names:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return bytes(proto.SerializeToString())
