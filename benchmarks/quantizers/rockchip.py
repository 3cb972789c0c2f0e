"""Rockchip's own quantization, in the simulator of rknn-toolkit2 (onchip toolchain install rknn).

The SDK takes bytes, and prepares the pixels itself with the mean and std that it is told. It cannot
load a .rknn file: the worker that built also simulates.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx
import yaml
from msgspec.structs import replace

from onchip.build import cut_model
from onchip.detect.program import Run
from onchip.quantize.regions import layers
from onchip.targets.rknn.build import TOOL, layer_table
from onchip.targets.rknn.qdq import lowered
from onchip.toolchains import install
from onchip.toolchains.worker import Worker
from onchip.vision.codes import FloatTensors
from quantizers.network import Made, Network

CHIP = "rk3588"


def quantize(network: Network, algorithm: str = "normal", hybrid: str = "") -> Made:
    """Let the SDK quantize the cut network, at its default optimization level."""
    worker = Worker(
        install.ready(TOOL), "rknn_calls", "rknn-toolkit2", settings={"RKNN_LOG_LEVEL": "3"}
    )
    model = lowered(onnx.ModelProto.FromString(network.cut))
    (worker.folder / "model.onnx").write_bytes(model.SerializeToString())
    count = 0
    for tensor in network.tensors(replace(network.input, dtype="uint8")):
        np.save(worker.folder / f"{count}.npy", tensor)
        count += 1
    config = {
        "mean_values": [list(network.input.mean)],
        "std_values": [list(network.input.std)],
        "target_platform": CHIP,
        "quantized_algorithm": algorithm,
    }
    program: bytes = worker.call(
        "build", model="model.onnx", config=config, quantize=True, images=count, hybrid=hybrid
    )
    outputs = tuple(o.name for o in model.graph.output)
    spec = replace(network.input, dtype="uint8", layout="nhwc")
    floats, total = _raised(worker, network) if hybrid else in_float(layer_table(worker.log))
    return Made(program, "rknn", spec, lambda: _simulated(worker, outputs), floats, total)


@contextmanager
def _simulated(worker: Worker, outputs: tuple[str, ...]) -> Iterator[Run]:
    def run(tensor: npt.NDArray[np.generic]) -> FloatTensors:
        found = worker.call("simulate", tensor=np.ascontiguousarray(tensor))
        return dict(zip(outputs, found, strict=True))

    with worker:
        yield run


def in_float(table: str) -> tuple[int, int]:
    """Count the convolutions in the compiler's own table that are not in INT8, and all of them."""
    rows = [line.split() for line in table.splitlines()]
    kinds = [row[2] for row in rows if len(row) > 2 and row[1].startswith(("Conv", "ExConv"))]
    return sum(kind != "INT8" for kind in kinds), len(kinds)


def _raised(worker: Worker, network: Network) -> tuple[int, int]:
    """Count the layers in float16 by the SDK's plan: a hybrid build prints no table."""
    path = next(worker.folder.glob("*.quantization.cfg"))
    raised = yaml.safe_load(path.read_text())["custom_quantize_layers"] or {}
    known = layers(cut_model(network.artifact))
    return sum(x.raw in raised or x.output in raised for x in known), len(known)
