"""Every quantizer by name: who makes it, on how many images at most, and for how long it may run.

The imports are inside, so that one that is missing takes only its own rows away.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from onchip.build import Options
from onchip.quantize.recipe import RECIPES
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
    only: str = ""  # the network that it is for; of all others it has no rows

    def load(self) -> Callable[[Network], Made]:
        """Import what it needs."""
        quantize: Callable[..., Made] = import_module(f"quantizers.{self.module}").quantize
        return partial(quantize, **self.given)


PIP = "pip install nncf onnxruntime"
RKNN = "onchip toolchain install rknn"
STEM = ("Conv_41", "Conv_44")  # the two layers between which yolox_nano's detections are lost
RKNN_PLAN = {"quantizer": "onchip"}  # else it may take the SDK's quantization, which has rows


def _ours(
    recipe: str,
    target: str = "cpu",
    install: str = "",
    raised: tuple[str, ...] = (),
    only: str = "",
) -> Peer:
    """Return a recipe of onchip's own, all in INT8 but for the raised layers."""
    given = RKNN_PLAN if target != "cpu" else {}
    options = Options(max_float=0, keep_float=raised, recipe=RECIPES[recipe], target=given)
    return Peer("ours", {"target": target, "options": options}, install=install, only=only)


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
    **{f"onchip {r}, cpu": _ours(r) for r in RECIPES},
    **{f"onchip {r}, rk3588": _ours(r, "rk3588", RKNN) for r in RECIPES},
    "onchip, one tensor raised, cpu": _ours("balanced", raised=STEM, only="yolox_nano"),
    "onchip, one tensor raised, rk3588": _ours("balanced", "rk3588", RKNN, STEM, "yolox_nano"),
}
