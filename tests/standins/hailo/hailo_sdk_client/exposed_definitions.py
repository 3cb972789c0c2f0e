"""The names that callers may use."""

from enum import Enum

from hailo_sdk_common.states.states import States as States
from hailo_standin.said import since

SUPPORTED_HW_ARCHS = (
    ["hailo15h", "hailo15m", "hailo15l", "hailo10h"]
    if since(4, 0)
    else ["hailo8", "hailo8l", "hailo8r"]
)


class InferenceContext(Enum):
    """Where inference runs: on the parsed network, the modified one, the quantized, or a chip."""

    SDK_NATIVE = "sdk_native"
    SDK_FP_OPTIMIZED = "sdk_fp_optimized"
    SDK_QUANTIZED = "sdk_quantized"
    SDK_HAILO_HW = "sdk_hailo_hw"
