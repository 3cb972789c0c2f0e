"""How exact is the emulation of a plan? Each operation as written, against ONNX Runtime's integers.

For each model and its plan for the CPU, on photos that calibrated nothing: the part of all codes
that are equal, of those that are more than one step apart, decibels by head tensor, and the
detections that match. Beside it the emulation against itself with all scales of weights changed by
3e-7: what a sum on the border between two codes becomes by the network's end, whoever adds it up.

    python benchmarks/emulation.py [MODELS]        four models, five minutes
"""

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from msgspec.structs import replace
from onnx import numpy_helper

from common import DATA, MODELS, photos
from onchip.artifact import Artifact
from onchip.build import Options, optimize, parse, quantized
from onchip.detect.program import FOR_ACCURACY, Program
from onchip.graph.run import ALL, NOTHING, Array, session
from onchip.measure.parity import pair, parity
from onchip.vision.preprocess import read_image
from quantizers.row import samples

IMAGES = 16
CALIBRATION = 64
CLEAR = 0.25
CHANGE = 1 + 3e-7


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        parsed = parse(DATA / "models" / f"{name}.onnx", "cpu", photos(CALIBRATION))
        made = optimize(parsed, photos(CALIBRATION), options=Options(max_float=0))
        graph = onnx.load_from_string(quantized(made).bytes)
        emulated = Ran(made, graph, NOTHING)
        print(f"{name}: {len(emulated.codes[0])} tensors, {IMAGES} photos")
        print(f"  ONNX Runtime's integers  {apart(emulated, Ran(made, graph, ALL))}")
        print(f"  scales changed by 3e-7   {apart(emulated, Ran(made, changed(graph), NOTHING))}")
        sys.stdout.flush()


class Ran:
    """What a graph gives for the photos: every code, the head's tensors and the detections."""

    def __init__(self, made: Artifact, graph: onnx.ModelProto, optimized: str) -> None:
        manifest = made.manifest
        names = [n.output[0] for n in graph.graph.node if n.op_type == "QuantizeLinear"]
        own = [o.name for o in graph.graph.output]
        shown = onnx.ModelProto()
        shown.CopyFrom(graph)
        shown.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in own)
        self._session = session(shown.SerializeToString(), 0, optimize=optimized)
        self._shown, self._own = names, own
        self.codes: list[list[Array]] = []
        self.heads: list[dict[str, Array]] = []
        dtype = "uint8" if manifest.input.uniform else "float32"
        program = Program(self._run, replace(manifest.input, dtype=dtype), manifest.head)
        images = [read_image(s.path) for s in samples("tune", CALIBRATION, IMAGES)]
        self.found = [program(image, FOR_ACCURACY) for image in images]

    def _run(self, tensor: npt.NDArray[np.generic]) -> dict[str, Array]:
        found = self._session.run(None, {self._session.get_inputs()[0].name: tensor})
        by_name = dict(zip([o.name for o in self._session.get_outputs()], found, strict=True))
        self.codes.append([by_name[n] for n in self._shown])
        self.heads.append({n: by_name[n] for n in self._own})
        return self.heads[-1]


def changed(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with every weight's scale a little larger."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    constants = {c.name: c for c in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            scale = constants[node.input[1]]
            values = numpy_helper.to_array(scale) * np.float32(CHANGE)
            scale.CopyFrom(numpy_helper.from_array(values.astype(np.float32), scale.name))
    return copy


def apart(first: Ran, second: Ran) -> str:
    """Say how far two runs are from each other."""
    steps = [
        np.abs(a.astype(np.int32) - b) for x, y in zip(first.codes, second.codes, strict=True)
        for a, b in zip(x, y, strict=True)
    ]  # fmt: skip
    count = sum(s.size for s in steps)
    equal = sum(int((s == 0).sum()) for s in steps) / count
    far = sum(int((s > 1).sum()) for s in steps) / count
    whole = next((i for i, s in enumerate(steps[: len(first.codes[0])]) if s.any()), None)
    decibels = [
        decibel([h[n] for h in first.heads], [h[n] for h in second.heads]) for n in first.heads[0]
    ]
    clear = [[d[d.scores >= CLEAR] for d in run.found] for run in (first, second)]
    alike = parity([pair(a, b) for a, b in zip(*clear, strict=True)])
    return (
        f"codes equal {equal:.3%}, more than a step apart {far:.4%}, first difference in tensor "
        f"{whole}; head {min(decibels):.0f} to {max(decibels):.0f} dB; "
        f"matched {alike.matched:.1%}, IoU {alike.mean_iou:.3f}"
    )


def decibel(first: Sequence[Array], second: Sequence[Array]) -> float:
    power = sum(float(np.square(a).sum()) for a in first)
    error = sum(float(np.square(a - b).sum()) for a, b in zip(first, second, strict=True))
    return 10 * float(np.log10(power / max(error, 1e-12)))


if __name__ == "__main__":
    main()
