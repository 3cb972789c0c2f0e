"""This machine's processor through ONNX Runtime: the reference target, with real INT8 kernels."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onchip.artifact import Artifact
from onchip.errors import ToolError
from onchip.spec import QuantSpec
from onchip.targets.target import MOVES, Compiled, Job, Part, Runtime, Session, Target
from onchip.vision.codes import Tensors, codes_of, named

if TYPE_CHECKING:
    import onnxruntime


class Cpu(Target):
    """ONNX Runtime's CPU kernels, unsigned activations and signed weights."""

    name = "cpu"
    title = "CPU (ONNX Runtime)"
    verified = "run on x86-64 without VNNI; not on Arm"
    frigate = ("onnx",)
    quant = QuantSpec(
        raised=("float32", "int16"),
        pair_limit=32767,  # AVX2 adds pairs of products in 16 bits
        ops=MOVES
        | {"Conv", "Add", "Mul", "Sigmoid", "LeakyRelu", "Relu"}
        | {"AveragePool", "GlobalAveragePool"},
        shared=MOVES,
    )

    def version(self) -> str:
        """ONNX Runtime's version."""
        return version("onnxruntime")

    def compile(self, job: Job) -> Compiled:
        """Take the QDQ graph, which ONNX Runtime fuses into integer kernels when it loads."""
        from onchip.quantize.merge import merged
        from onchip.targets.qdq import compiled

        return compiled(replace(job, qdq=merged(job.qdq)), {"onnxruntime": self.version()})

    def open(self, artifact: Artifact, threads: int = 0) -> "CpuSession":
        """Load the graph into ONNX Runtime."""
        return CpuSession(artifact.payload("program"), threads)

    def parts(self) -> tuple[Part, ...]:
        """ONNX Runtime came with onchip."""
        return (Part("onnxruntime", self.version()),)

    def trial(self, model: bytes) -> "Mapping[str, Callable[[], CpuSession]]":
        """On the processor."""
        return {"processor": partial(CpuSession, model)}

    def runtime(self) -> Runtime:
        """ONNX Runtime."""
        return Runtime(requirements=("onnxruntime",))


def depth(threads: int) -> int:
    """Return how many callers keep the processor busy, where each call has so many threads."""
    return (os.cpu_count() or 1) if threads == 1 else 2  # what prepares shares the cores


class CpuSession(Session):
    """One graph in ONNX Runtime. `threads` 0 is one per core; with 1 several calls share them."""

    parallel = True

    def __init__(self, payload: bytes, threads: int = 0) -> None:
        from onchip.graph.run import session

        try:
            self._session: onnxruntime.InferenceSession = session(payload, threads, spinning=False)
        except Exception as error:
            raise ToolError(f"ONNX Runtime cannot load the compiled file: {error}") from error
        self.depth = depth(threads)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._codes = codes_of(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input."""
        try:
            found = self._session.run(None, {self._input: tensor})
        except Exception as error:
            raise ToolError(f"ONNX Runtime cannot run the compiled file: {error}") from error
        return named(self._outputs, found, self._codes)
