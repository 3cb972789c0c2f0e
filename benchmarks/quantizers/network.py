"""What every quantizer gets, and what it must give back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from onchip.artifact import Artifact
from onchip.detect.program import Run
from onchip.spec import InputSpec
from onchip.targets.target import MOVES
from onchip.vision.preprocess import prepare, read_image

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WIDE = (onnx.TensorProto.INT16, onnx.TensorProto.UINT16)

Tensor = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Network:
    """A network cut at its head's raw tensors, and the photos to calibrate it on."""

    artifact: Artifact  # parsed, no more
    photos: tuple[Path, ...]

    @property
    def cut(self) -> bytes:
        """The float network, which begins where the pixels end."""
        return self.artifact.payload("cut")

    @property
    def input(self) -> InputSpec:
        """What it expects of its pixels."""
        return self.artifact.manifest.input

    def tensor(self, photo: Path, spec: InputSpec | None = None) -> Tensor:
        """Make the input of one photo, from the file on."""
        return prepare(read_image(photo), spec or self.input)[0]

    def tensors(self, spec: InputSpec | None = None) -> Iterator[Tensor]:
        """Make the calibration inputs one by one."""
        return (self.tensor(photo, spec) for photo in self.photos)


@dataclass(frozen=True)
class Made:
    """What a quantizer made: its file, what that expects of the pixels, and how it is run.

    `floats` of its `layers` (convolutions, mostly) do not compute in INT8.
    """

    file: bytes
    suffix: str
    input: InputSpec
    open: Callable[[], AbstractContextManager[Run]]
    floats: int
    layers: int


def in_float(data: bytes) -> tuple[int, int]:
    """Count the weighted layers of a QDQ graph that do not compute in INT8, and all of them."""
    graph = onnx.ModelProto.FromString(data).graph
    makers = {name: node for node in graph.node for name in node.output}
    kinds = {t.name: t.data_type for t in graph.initializer}

    def integer(name: str) -> bool:
        node = makers.get(name)
        if node is None:
            return False
        if node.op_type in MOVES:
            return all(integer(n) for n in node.input if n not in kinds)
        return node.op_type == "DequantizeLinear" and kinds.get(node.input[-1]) not in WIDE

    weighted = [n for n in graph.node if n.op_type in WEIGHTED]
    return sum(not all(integer(x) for x in n.input[:2]) for n in weighted), len(weighted)
