"""Watch a float network on calibration images, without ever holding its activations.

Each tensor is sampled on a grid of positions inside the graph, and what comes out is folded at
once into a histogram and per-channel sums. Statistics of two sets of images merge by addition, in
any order, so that shards give what one pass gives.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from threading import Lock

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onchip.graph.read import Model
from onchip.graph.run import Array, Runner
from onchip.quantize.activations import function
from onchip.quantize.attention import attention
from onchip.quantize.attention import weights as place_weights
from onchip.quantize.regions import Regions
from onchip.spec import HeadSpec

POSITIONS = 10  # rows and columns sampled per map and image
Maker = Callable[[], npt.NDArray[np.generic] | None]
BINS = 2048  # at least half of them used on the wider side of zero


@dataclass
class Stats:
    """What was seen of one tensor: a weighted histogram, and mean and limits of each channel.

    Bins are `2**exponent` wide and aligned to zero, so that two histograms of different widths
    merge exactly: the finer is folded into the coarser.
    """

    exponent: int = -30
    counts: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2 * BINS))
    total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    low: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    high: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    samples: int = 0  # per channel

    def add(self, values: Array, weights: npt.NDArray[np.float64]) -> None:
        """Take in one sample `(channels, n)`, whose places count as `weights (n,)` say."""
        low, high = values.min(axis=1), values.max(axis=1)
        self._widen(max(float(-low.min()), float(high.max())))
        index = values.ravel() * np.float32(2.0**-self.exponent)
        index += BINS  # positive now, so that the cast rounds down
        each = np.broadcast_to(weights, values.shape).ravel()
        self.counts += np.bincount(index.astype(np.int32), each, minlength=2 * BINS)
        first = not self.samples
        total = values.sum(axis=1, dtype=np.float64)
        self.total = total if first else self.total + total
        self.low = low if first else np.minimum(self.low, low)
        self.high = high if first else np.maximum(self.high, high)
        self.samples += values.shape[1]

    def merge(self, other: "Stats") -> None:
        """Take in what another observer saw of the same tensor."""
        if not other.samples:
            return
        self._widen(2.0**other.exponent * BINS * 0.75)
        counts, exponent = other.counts, other.exponent
        while exponent < self.exponent:
            counts, exponent = _fold(counts), exponent + 1
        while self.exponent < exponent:
            self.counts, self.exponent = _fold(self.counts), self.exponent + 1
        self.counts = self.counts + counts
        first = not self.samples
        self.total = other.total if first else self.total + other.total
        self.low = other.low if first else np.minimum(self.low, other.low)
        self.high = other.high if first else np.maximum(self.high, other.high)
        self.samples += other.samples

    def _widen(self, magnitude: float) -> None:
        """Fold the histogram until `magnitude` falls inside it."""
        while magnitude >= (BINS - 1) * 2.0**self.exponent:
            self.counts, self.exponent = _fold(self.counts), self.exponent + 1

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of each channel."""
        return self.total / max(self.samples, 1)

    @property
    def centers(self) -> npt.NDArray[np.floating]:
        """The middle of each bin that holds something."""
        return (np.flatnonzero(self.counts) - BINS + 0.5) * 2.0**self.exponent

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How much each of `centers` was seen, as parts of one."""
        seen = self.counts[self.counts > 0]
        return seen / seen.sum()


def _fold(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Halve the resolution: bins 2i and 2i+1, counted from zero, become one."""
    folded = np.zeros_like(counts)
    folded[BINS // 2 : BINS // 2 + BINS] = counts.reshape(-1, 2).sum(axis=1)
    return folded


def observe(
    model: Model,
    head: HeadSpec,
    regions: Regions,
    inputs: Iterable[Maker],
    *,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Stats]:
    """Run the network over `inputs` and return what was seen of each tensor.

    Args:
        model: the float network, cut at its head.
        head: tells where in an image objects are; those places count most.
        regions: says which tensors to watch and which follow from those.
        inputs: makers of one input each, or of None for one that is left out; called on the
            worker threads, so that images load there.
        workers: how many images are in flight; memory grows with this and with nothing else.
        progress: called with the number of images done.
    """
    watch = _Watch(model, head, regions)
    source = _Shared(inputs)
    done = 0

    # one observer per worker, so that folding runs beside inference; merged at the end
    def work() -> dict[str, Stats]:
        nonlocal done
        seen: dict[str, Stats] = {}
        while (make := source.next()) is not None:
            if (tensor := make()) is not None:
                for name, (values, weights) in watch(tensor):
                    seen.setdefault(name, Stats()).add(values, weights)
            done += 1
            progress(done)
        return seen

    with ThreadPoolExecutor(workers) as pool:
        shards = [f.result() for f in [pool.submit(work) for _ in range(workers)]]
    merged: dict[str, Stats] = {}
    for shard in shards:
        for name, stats in shard.items():
            merged.setdefault(name, Stats()).merge(stats)
    return merged


Sample = tuple[Array, npt.NDArray[np.float64]]  # values (channels, n) and the weight of each place


class _Watch:
    """Runs the network on one input and yields a sample of every tensor."""

    def __init__(self, model: Model, head: HeadSpec, regions: Regions) -> None:
        self._head, self._regions = head, regions
        self._names = [t for t in regions.watched if t in model.producers]
        self._run = Runner(_sampled(model, head, self._names).SerializeToString(), threads=1)
        self._entry = model.inputs[0].name
        _, _, height, width = model.inputs[0].shape
        self._size = (width, height)

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Iterator[tuple[str, Sample]]:
        found = dict(zip(self._names, self._run.run(tensor), strict=True))
        looks = attention(self._head, found, self._size)
        weights: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
        for name, values in found.items():
            grid = values.shape[2:] if values.ndim == 4 else (1, values.size)
            if grid not in weights:
                flat = values.ndim != 4
                weights[grid] = np.ones(grid[1]) if flat else place_weights(looks, *grid)
            found[name] = _by_channel(values)
            yield name, (found[name], weights[grid])
            for derived, activation in self._derived.get(name, ()):
                made = function(activation)(found[name]).astype(np.float32, copy=False)
                yield derived, (made, weights[grid])
        step = max(1, tensor.shape[-2] // (8 * POSITIONS))
        entry = _by_channel(np.asarray(tensor[:, :, ::step, ::step], np.float32))
        yield self._entry, (entry, np.ones(entry.shape[1]))

    @cached_property
    def _derived(self) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for name, (raw, activation) in self._regions.derived.items():
            found.setdefault(raw, []).append((name, activation))
        return found


class _Shared:
    """An iterator that several threads may draw from."""

    def __init__(self, source: Iterable[Maker]) -> None:
        self._source = iter(source)
        self._lock = Lock()

    def next(self) -> Maker | None:
        with self._lock:
            return next(islice(self._source, 1), None)


def _by_channel(values: Array) -> Array:
    if values.ndim == 4:
        return values[0].reshape(values.shape[1], -1)
    return values.reshape(1, -1)


def _sampled(model: Model, head: HeadSpec, names: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with a sample of each tensor as its outputs, and all of the head's."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    del graph.output[:]
    for number, name in enumerate(names):
        shape = model.shapes.get(name, ())
        output = name
        step = max(1, max(shape[2:]) // POSITIONS) if len(shape) == 4 else 1
        step = 1 if name in head.outputs else step
        if step > 1:
            output = f"onchip_sample_{number}"
            start = step // 2
            fields = {"start": [start, start], "end": [1 << 30] * 2, "axis": [2, 3]}
            fields["step"] = [step, step]
            for key, value in fields.items():
                array = np.asarray(value, np.int64)
                graph.initializer.append(numpy_helper.from_array(array, f"{output}_{key}"))
            graph.node.append(
                helper.make_node("Slice", [name, *(f"{output}_{k}" for k in fields)], [output])
            )
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return proto
