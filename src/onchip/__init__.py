"""onchip takes a trained object detector to an edge NPU, and proves that it still sees."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onchip.detect.detector import Detector
    from onchip.detections import Detections

__all__ = ["Detections", "Detector", "__version__"]
__version__ = "0.1.0"

_HOMES = {"Detector": "onchip.detect.detector", "Detections": "onchip.detections"}


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `import onchip` costs nothing."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'onchip' has no attribute {name!r}")
