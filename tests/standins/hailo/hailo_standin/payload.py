"""What a stand-in's HEF carries where a real one has its instructions: the graph that computes it.

The bytes are a magic, the length of a JSON text, that text, and an ONNX file:
`{"input": name, "mean": [...], "std": [...], "bgr": bool, "outputs": {layer: tensor}}`.
The graph takes normalized float32 NCHW and gives dequantized float32 of the parsed network's layout.
"""

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

MAGIC = b"onchip stand-in 1"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Program:
    """A graph, what its pixels need before it, and which tensor each of its layers is."""

    graph: bytes
    input: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool
    outputs: dict[str, str]

    @cached_property
    def _session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        return ort.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Array) -> dict[str, Array]:
        """Run one frame `(H, W, C)`; return each layer as `(H, W, C)`, dequantized."""
        frame: Array = pixels.astype(np.float32)
        if self.bgr:
            frame = frame[..., ::-1]
        frame = (frame - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        tensor = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32)
        names = list(self.outputs)
        found = self._session.run([self.outputs[n] for n in names], {self.input: tensor})
        return {n: channels_last(a)[0] for n, a in zip(names, found, strict=True)}

    def pack(self) -> bytes:
        """Return the bytes that stand for instructions."""
        said = {
            "input": self.input, "mean": self.mean, "std": self.std, "bgr": self.bgr,
            "outputs": self.outputs,
        }  # fmt: skip
        text = json.dumps(said).encode()
        return MAGIC + struct.pack("<I", len(text)) + text + self.graph


def unpack(data: bytes) -> Program | None:
    """Return the program in a HEF's instructions; None where they are a real compiler's."""
    if not data.startswith(MAGIC):
        return None
    at = len(MAGIC) + 4
    (length,) = struct.unpack("<I", data[len(MAGIC) : at])
    said = json.loads(data[at : at + length])
    return Program(
        data[at + length :],
        said["input"],
        tuple(said["mean"]),
        tuple(said["std"]),
        said["bgr"],
        said["outputs"],
    )


def channels_last(array: Array) -> Array:
    """Return `(N, C, H, W)`, `(N, C, W)` or `(N, C)` as `(N, H, W, C)`.

    >>> channels_last(np.zeros((1, 144, 8400))).shape
    (1, 1, 8400, 144)
    """
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    if array.ndim == 3:
        return np.ascontiguousarray(array.transpose(0, 2, 1)[:, None])
    return array.reshape(len(array), 1, 1, -1)
