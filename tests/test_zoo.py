"""The family zoo: Ultralytics' own models with random weights, exported at test time.

Needs torch 2.13.0 and ultralytics (`make test ALL=1`). Only the table of expected end nodes is kept.
"""

import os
import types
from pathlib import Path

import pytest

from onchip.graph.clean import clean
from onchip.graph.prove import cut
from onchip.graph.read import read
from onchip.train.standin import prepare

pytestmark = pytest.mark.zoo

SIZE = 160
# model: family, bins, and the first of its end nodes' common prefix
EXPECTED = {
    "yolov5n.yaml": ("yolov8", 16, "/model.24"),
    "yolov6n.yaml": ("yolov8", 16, "/model.28"),
    "yolov8n.yaml": ("yolov8", 16, "/model.22"),
    "yolov9t.yaml": ("yolov8", 16, "/model.22"),
    "yolov10n.yaml": ("yolov8", 16, "/model.23"),
    "yolo11n.yaml": ("yolov8", 16, "/model.23"),
    "yolo12n.yaml": ("yolov8", 16, "/model.21"),
    "yolo26n.yaml": ("yolo26", 1, "/model.23"),
    "rtdetr-l.yaml": ("rtdetr", 1, "/model.28"),
}


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory: pytest.TempPathFactory) -> types.ModuleType:
    """Ultralytics, as onchip sets it up."""
    pytest.importorskip("torch", reason="the zoo needs torch: make test ALL=1")
    prepare(tmp_path_factory.mktemp("config"))
    return pytest.importorskip("ultralytics", reason="the zoo needs ultralytics: make test ALL=1")


def export(module: types.ModuleType, name: str, folder: Path, **more: object) -> Path:
    """Export a model of random weights whose outputs differ from cell to cell."""
    import torch

    torch.manual_seed(0)
    kind = module.RTDETR if name.startswith("rtdetr") else module.YOLO
    model = kind(name)
    with torch.no_grad():  # let the batch norms see noise, so that signals reach the head
        model.model.train()
        inner = model.model.model
        for layer in inner.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.5
        for _ in range(3):
            model.model.predict(torch.rand(2, 3, SIZE, SIZE))
        model.model.eval()
    os.chdir(folder)
    options = {"format": "onnx", "imgsz": SIZE, "simplify": False, "verbose": False, "opset": 17}
    exported = Path(model.export(**options, **more))
    return exported if exported.is_absolute() else folder / exported


@pytest.mark.parametrize("name", EXPECTED)
def test_zoo(name: str, ultralytics: types.ModuleType, tmp_path: Path) -> None:
    family, bins, prefix = EXPECTED[name]
    model = read(export(ultralytics, name, tmp_path))
    found = cut(clean(model).model)
    assert (found.head.family, found.head.reg_max) == (family, bins)
    assert found.head.classes == 80
    assert found.proof.passed, found.proof.describe()
    assert all(node.startswith(prefix) for node in found.head.end_nodes), found.head.end_nodes
    if bins > 1 or family == "yolo26":
        assert len(found.head.end_nodes) == 6
        assert found.head.strides == (8.0, 16.0, 32.0)
