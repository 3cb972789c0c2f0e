"""NNCF's post-training quantization, through its ONNX backend: no torch."""

from functools import partial
from pathlib import Path

import nncf
import onnx
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    QuantizationParameters,
)

from onchip.targets.cpu import CpuSession
from quantizers.network import Made, Network, Tensor, in_float


def quantize(network: Network, per_tensor: bool = False) -> Made:
    """Quantize as it advises for activations other than ReLU: with zero points ("mixed").

    `per_tensor` gives every activation one scale; it gives the inputs of depthwise convolutions
    one per channel, if it is let.
    """
    one = QuantizationParameters(per_channel=False) if per_tensor else None

    def named(photo: Path) -> dict[str, Tensor]:
        return {network.input.name: network.tensor(photo)}

    quantized = nncf.quantize(
        onnx.ModelProto.FromString(network.cut),
        nncf.Dataset(network.photos, named),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(network.photos),
        advanced_parameters=AdvancedQuantizationParameters(activations_quantization_params=one),
    )
    data = quantized.SerializeToString()
    return Made(data, "onnx", network.input, partial(CpuSession, data, 1), *in_float(data))
