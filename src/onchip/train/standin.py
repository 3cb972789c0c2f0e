"""What Ultralytics is told before it starts, and what it needs of torchvision where there is none.

Ultralytics detectors use one function of torchvision, `ops.nms`. PyPI's torchvision is built for
CUDA, and beside a PyTorch for the CPU it does not load.
"""

import importlib.metadata
import os
import sys
import types
from pathlib import Path
from typing import Any

VERSION = "0.28.0"  # that Ultralytics is told where torchvision is missing


def prepare(config: Path) -> None:
    """Set up this process for Ultralytics; called before it is imported.

    It stays offline unless `YOLO_OFFLINE` is set otherwise, installs nothing, loads no pickle with
    foreign names, and keeps its settings in `config` instead of the user's home.

    Raises:
        ImportError: PyTorch is not installed.
    """
    os.environ.setdefault("YOLO_OFFLINE", "1")
    # Threads that wait for each other spin, by default so long that one busy process beside them
    # slows an epoch many times over.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.update(YOLO_AUTOINSTALL="0", YOLO_CONFIG_DIR=str(config), ULTRALYTICS_SAFE_LOAD="1")
    if not _works():
        _stand_in()


def _works() -> bool:
    """Whether there is a torchvision here, and its operators load."""
    import torch

    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, OSError, RuntimeError, AttributeError):
        return False
    return True


def _stand_in() -> None:
    import torch

    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half of it may have been imported
    library = torch.library.Library("torchvision", "FRAGMENT")
    if not hasattr(torch.ops.torchvision, "nms"):
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CompositeExplicitAutograd")
    torch.onnx.register_custom_op_symbolic("torchvision::nms", _symbol, 11)
    vision: Any = types.ModuleType("torchvision")
    vision.ops = types.ModuleType("torchvision.ops")
    vision.ops.nms = torch.ops.torchvision.nms
    vision.__version__ = VERSION
    vision.library = library  # it lasts as long as this object
    sys.modules.update({"torchvision": vision, "torchvision.ops": vision.ops})
    real = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return VERSION if distribution_name == "torchvision" else real(distribution_name)

    importlib.metadata.version = version


def _nms(boxes: Any, scores: Any, threshold: float) -> Any:
    from ultralytics.utils.nms import TorchNMS  # does the same as torchvision's, by its own word

    return TorchNMS.nms(boxes, scores, threshold)


def _symbol(graph: Any, boxes: Any, scores: Any, threshold: Any) -> Any:
    """Write the operator into an ONNX graph: boxes `(n, 4)` and scores `(n,)` in, indices out."""
    import torch
    from torch.onnx import symbolic_helper

    def constant(value: object, kind: Any = torch.int64) -> Any:
        return graph.op("Constant", value_t=torch.tensor(value, dtype=kind))

    limit = symbolic_helper._maybe_get_const(threshold, "f")  # noqa: SLF001 - there is no other
    found = graph.op(
        "NonMaxSuppression",
        graph.op("Reshape", boxes, constant([1, -1, 4])),
        graph.op("Reshape", scores, constant([1, 1, -1])),
        constant([sys.maxsize]),
        constant([limit], torch.float32),
    )
    return graph.op("Gather", found, constant(2), axis_i=1)
