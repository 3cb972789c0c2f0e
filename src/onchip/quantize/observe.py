"""Watch a float network on calibration images, without ever holding its activations.

Each tensor is sampled on a grid of positions inside the graph, and what comes out is folded at
once into a histogram and per-channel sums. Statistics of two sets of images merge by addition, in
any order, so that shards give what one pass gives.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from onchip.graph.read import Model
from onchip.graph.run import Array, Runner
from onchip.quantize.activations import function
from onchip.quantize.attention import BACKGROUND, attention
from onchip.quantize.attention import weights as place_weights
from onchip.quantize.regions import Regions
from onchip.quantize.sound import first_unsound
from onchip.quantize.stats import Stats
from onchip.several import each
from onchip.spec import HeadSpec

POSITIONS = 10  # rows and columns sampled per map and image
Maker = Callable[[], npt.NDArray[np.generic] | None]
BATCH = 16  # images whose samples are folded together: fewer, larger steps


def observe(
    model: Model,
    head: HeadSpec,
    regions: Regions,
    inputs: Iterable[Maker],
    *,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
    refused: Callable[[int, str], None] = lambda number, tensor: None,
    results: Callable[[int, Mapping[str, Array]], None] = lambda number, tensors: None,
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
        refused: called with the number of an input that makes NaN or infinite values, which is left
            out, and the first tensor that has them.
        results: called with the number of every other input and the head's outputs, on the threads.
    """
    watch = _Watch(model, head, regions)
    makers = list(inputs)
    done = 0

    # one observer per worker, so that folding runs beside inference; each has its images, so that
    # sums do not depend on who is quicker
    def work(first: int) -> dict[str, Stats]:
        nonlocal done
        observer = _Observer(regions)
        for number in range(first, len(makers), workers):
            if (tensor := makers[number]()) is not None:
                found = watch.run(tensor)
                if unsound := first_unsound(found):
                    refused(number, unsound)
                else:
                    results(number, {n: found[n] for n in head.outputs})
                    observer.take(watch(tensor, found))
            done += 1
            progress(done)
        return observer.finish()

    merged: dict[str, Stats] = {}
    for shard in each(work, range(workers), workers):
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

    def run(self, tensor: npt.NDArray[np.generic]) -> dict[str, Array]:
        """Return a sample of every tensor, by name."""
        return dict(zip(self._names, self._run.run(tensor), strict=True))

    def __call__(
        self, tensor: npt.NDArray[np.generic], found: dict[str, Array]
    ) -> Iterator[tuple[str, Sample]]:
        looks = attention(self._head, found, self._size)
        weights: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
        for name, values in found.items():
            grid = values.shape[2:] if values.ndim == 4 else (1, values.size)
            if grid not in weights:
                flat = values.ndim != 4
                weights[grid] = np.ones(grid[1]) if flat else place_weights(looks, *grid)
            sample, weight = _by_channel(values), weights[grid]
            if name in self._head.outputs:
                chosen = _telling(weight)
                sample, weight = sample[:, chosen], weight[chosen]
            yield name, (sample, weight)
        step = max(1, tensor.shape[-2] // (8 * POSITIONS))
        # a copy, which does not hold the image
        entry = _by_channel(tensor[:, :, ::step, ::step].astype(np.float32))
        yield self._entry, (entry, np.ones(entry.shape[1]))


class _Observer:
    """Folds samples into statistics, a few images at a time."""

    def __init__(self, regions: Regions) -> None:
        self._seen: dict[str, Stats] = {}
        self._waiting: dict[str, list[Sample]] = {}
        self._images = 0
        self._derived: dict[str, list[tuple[str, str]]] = {}
        for name, (raw, activation) in regions.derived.items():
            self._derived.setdefault(raw, []).append((name, activation))

    def take(self, samples: Iterator[tuple[str, Sample]]) -> None:
        """Take in one image's samples."""
        for name, sample in samples:
            self._waiting.setdefault(name, []).append(sample)
        self._images += 1
        if self._images % BATCH == 0:
            self._fold()

    def finish(self) -> dict[str, Stats]:
        """Return what was seen."""
        self._fold()
        return self._seen

    def _fold(self) -> None:
        for name, samples in self._waiting.items():
            values = np.concatenate([v for v, _ in samples], axis=1)
            weights = np.concatenate([w for _, w in samples])
            self._seen.setdefault(name, Stats()).add(values, weights)
            for derived, activation in self._derived.get(name, ()):
                made = function(activation)(values).astype(np.float32, copy=False)
                self._seen.setdefault(derived, Stats()).add(made, weights)
        self._waiting = {}


def _telling(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the places of a head where something is seen, and one in eight of the others."""
    telling = weights > 2 * BACKGROUND
    telling[::8] = True
    return np.flatnonzero(telling)


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
        steps = [max(1, n // POSITIONS) for n in shape[2:]] if len(shape) == 4 else []
        if name not in head.outputs and max(steps, default=1) > 1:
            # a pooling of single cells: ONNX Runtime takes it from its blocked layout, where a
            # Slice would make it turn the whole tensor round first
            output = f"onchip_sample_{number}"
            fields = {"kernel_shape": [1, 1], "strides": steps}
            graph.node.append(helper.make_node("MaxPool", [name], [output], **fields))
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return proto
