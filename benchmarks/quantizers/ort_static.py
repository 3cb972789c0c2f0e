"""ONNX Runtime's static quantization: unsigned activations, signed weights per channel, as QDQ."""

import tempfile
from functools import partial
from pathlib import Path

from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from onchip.targets.cpu import CpuSession
from quantizers.network import Made, Network, Tensor, in_float


class _Reader(CalibrationDataReader):
    def __init__(self, network: Network) -> None:
        self._left = network.tensors()
        self._name = network.input.name

    def get_next(self) -> dict[str, Tensor] | None:
        tensor = next(self._left, None)
        return None if tensor is None else {self._name: tensor}


def quantize(network: Network, method: str) -> Made:
    """Quantize with its recommended steps: preprocess, then calibrate by `method`."""
    with tempfile.TemporaryDirectory() as folder:
        cut, clean, made = (Path(folder) / f"{n}.onnx" for n in ("cut", "clean", "made"))
        cut.write_bytes(network.cut)
        quant_pre_process(cut, clean, skip_symbolic_shape=True)  # every shape is fixed
        quantize_static(
            clean,
            made,
            _Reader(network),
            per_channel=True,
            activation_type=QuantType.QUInt8,  # its default has no fast kernels on x86
            calibrate_method=CalibrationMethod[method],
        )
        data = made.read_bytes()
    return Made(data, "onnx", network.input, partial(CpuSession, data, 1), *in_float(data))
