"""Every quantizer by name: who makes it, on how many images at most, and for how long it may run.

The imports are inside, so that one that is missing takes only its own rows away.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from onchip.build import Options
from quantizers.network import Made, Network

MINUTES = 60


@dataclass(frozen=True)
class Peer:
    """One quantizer: a module here with a function `quantize`, and what that is given."""

    module: str
    given: dict[str, Any] = field(default_factory=dict)
    install: str = ""  # the command that installs what it needs
    most: int = 0  # images; 0 is all
    limit: float = 20 * MINUTES

    def load(self) -> Callable[[Network], Made]:
        """Import what it needs."""
        quantize: Callable[..., Made] = import_module(f"quantizers.{self.module}").quantize
        return partial(quantize, **self.given)


PIP = "pip install nncf onnxruntime"
RKNN = "onchip toolchain install rknn"
INT8 = Options(max_float=0)
RKNN_PLAN = {"quantizer": "onchip"}  # else it may take the SDK's quantization, which has rows

PEERS = {
    "onnxruntime MinMax": Peer("ort_static", {"method": "MinMax"}),
    # it holds all activations of all images: gigabytes
    "onnxruntime Entropy": Peer("ort_static", {"method": "Entropy"}, most=32),
    "NNCF": Peer("nncf_static", install=PIP),
    "NNCF, one scale per tensor": Peer("nncf_static", {"per_tensor": True}, install=PIP),
    "RKNN normal": Peer("rockchip", install=RKNN),
    "RKNN kl_divergence": Peer("rockchip", {"algorithm": "kl_divergence"}, install=RKNN),
    # minutes for every ten images
    "RKNN mmse": Peer("rockchip", {"algorithm": "mmse"}, install=RKNN, most=8),
    "RKNN hybrid proposal": Peer("rockchip", {"hybrid": "proposal"}, install=RKNN),
    "onchip cpu, all INT8": Peer("ours", {"options": INT8}),
    "onchip cpu": Peer("ours"),
    "onchip rk3588, all INT8": Peer(
        "ours",
        {"target": "rk3588", "options": Options(max_float=0, target=RKNN_PLAN)},
        install=RKNN,
    ),
    "onchip rk3588": Peer(
        "ours", {"target": "rk3588", "options": Options(target=RKNN_PLAN)}, install=RKNN
    ),
}
