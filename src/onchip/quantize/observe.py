"""Watch a float network on calibration images, without ever holding its activations.

Each tensor is sampled on a grid of positions inside the graph, and what comes out is folded at
once into a histogram and per-channel sums. Statistics of two sets of images merge by addition, in
any order, so that shards give what one pass gives.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onchip.graph.read import Model
from onchip.graph.run import Array, Runner
from onchip.quantize.activations import function
from onchip.quantize.regions import Regions

POSITIONS = 10  # rows and columns sampled per map and image
BINS = 2048  # at least half of them used on the wider side of zero


@dataclass
class Stats:
    """What was seen of one tensor.

    Bins are `2**exponent` wide and aligned to zero, so that two histograms of different widths
    merge exactly: the finer is folded into the coarser.
    """

    exponent: int = -30
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    square: float = 0.0
    low: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    high: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    samples: int = 0  # per channel

    def add(self, values: Array) -> None:
        """Take in one sample `(channels, n)`."""
        low, high = values.min(axis=1), values.max(axis=1)
        self._widen(max(float(-low.min()), float(high.max())))
        index = values.ravel() * np.float32(2.0**-self.exponent)
        index += BINS  # positive now, so that the cast rounds down
        self.counts += np.bincount(index.astype(np.int32), minlength=2 * BINS)
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
    def centers(self) -> npt.NDArray[np.float64]:
        """The middle of each bin that holds something."""
        return (np.flatnonzero(self.counts) - BINS + 0.5) * 2.0**self.exponent

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How much each of `centers` was seen, as parts of one."""
        seen = self.counts[self.counts > 0]
        return seen / seen.sum()


def _fold(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Halve the resolution: bins 2i and 2i+1, counted from zero, become one."""
    folded = np.zeros_like(counts)
    folded[BINS // 2 : BINS // 2 + BINS] = counts.reshape(-1, 2).sum(axis=1)
    return folded


def observe(
    model: Model,
    regions: Regions,
    inputs: Iterable[Callable[[], npt.NDArray[np.generic]]],
    *,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Stats]:
    """Run the network over `inputs` and return what was seen of each tensor.

    Args:
        model: the float network.
        regions: says which tensors to watch and which follow from those.
        inputs: makers of one input each; called on the worker threads, so images load there.
        workers: how many images are in flight; memory grows with this and with nothing else.
        progress: called with the number of images done.
    """
    names = [t for t in regions.watched if t in model.producers]
    run = Runner(_sampled(model, names).SerializeToString(), threads=1)
    entry = model.inputs[0].name
    done = 0

    def watch(make: Callable[[], npt.NDArray[np.generic]]) -> dict[str, Array]:
        tensor = make()
        found = {n: _by_channel(v) for n, v in zip(names, run.run(tensor), strict=True)}
        for name, (raw, activation) in regions.derived.items():
            found[name] = function(activation)(found[raw]).astype(np.float32, copy=False)
        step = max(1, tensor.shape[-2] // (8 * POSITIONS))
        found[entry] = _by_channel(np.asarray(tensor[:, :, ::step, ::step], np.float32))
        return found

    # one observer per worker, so that folding runs beside inference; merged at the end
    def work(source: "_Shared") -> dict[str, Stats]:
        nonlocal done
        seen: dict[str, Stats] = {}
        while (make := source.next()) is not None:
            for name, values in watch(make).items():
                seen.setdefault(name, Stats()).add(values)
            done += 1
            progress(done)
        return seen

    source = _Shared(inputs)
    with ThreadPoolExecutor(workers) as pool:
        shards = [f.result() for f in [pool.submit(work, source) for _ in range(workers)]]
    merged: dict[str, Stats] = {}
    for shard in shards:
        for name, stats in shard.items():
            merged.setdefault(name, Stats()).merge(stats)
    return merged


class _Shared:
    """An iterator that several threads may draw from."""

    def __init__(self, source: Iterable[Callable[[], npt.NDArray[np.generic]]]) -> None:
        self._source = iter(source)
        self._lock = Lock()

    def next(self) -> Callable[[], npt.NDArray[np.generic]] | None:
        with self._lock:
            return next(islice(self._source, 1), None)


def _by_channel(values: Array) -> Array:
    if values.ndim == 4:
        return values[0].reshape(values.shape[1], -1)
    return values.reshape(1, -1)


def _sampled(model: Model, names: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with a sample of each tensor as its outputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    del graph.output[:]
    for number, name in enumerate(names):
        shape = model.shapes.get(name, ())
        output = name
        step = max(1, max(shape[2:]) // POSITIONS) if len(shape) == 4 else 1
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
