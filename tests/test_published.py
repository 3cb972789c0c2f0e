"""What vendors publish, and which network one's own is."""

from pathlib import Path

import pytest

from onchip.graph import read
from onchip.graph.clean import clean
from onchip.graph.cost import cost
from onchip.spec import Cost
from onchip.targets import target as targets
from onchip.targets.published import _table, published


def test_every_speed_is_of_a_known_network_on_a_target() -> None:
    table = _table()
    for chip, known in table.chips.items():
        assert chip in targets.names()
        assert set(known.speeds) <= set(table.networks)


def test_each_network_is_found_as_itself() -> None:
    table = _table()
    for chip, known in table.chips.items():
        for name in known.speeds:
            network = table.networks[name]
            given = Cost(weights=network.weights, operations=network.operations)
            found = published(chip, network.size, given)
            assert found is not None
            other = table.networks[found.network]
            assert (other.weights, other.operations) == (network.weights, network.operations)


@pytest.mark.parametrize(
    ("chip", "size", "weights", "operations"),
    [
        ("cpu", (640, 640), 3.2, 8.74),  # nobody publishes for it
        ("hailo8l", (320, 320), 3.2, 2.2),  # not at that size
        ("hailo8l", (640, 640), 3.2, 5.0),  # another network
        ("hailo8l", (640, 640), 0.0, 0.0),
    ],
)
def test_what_is_not_known_is_not_guessed(
    chip: str, size: tuple[int, int], weights: float, operations: float
) -> None:
    assert published(chip, size, Cost(weights=weights, operations=operations)) is None


@pytest.mark.data
@pytest.mark.parametrize(
    ("model", "chip", "name", "fps"),
    [
        ("yolov8n", "hailo8l", "yolov8n", 202),
        ("yolov8n", "rk3588", "yolov8n", 73.5),
        ("yolov5n", "rk3566", "yolov5n", 39.7),
    ],
)
def test_real_models(model: str, chip: str, name: str, fps: float, data: Path) -> None:
    cleaned = clean(read.load(data / "models" / f"{model}.onnx")).model
    found = published(chip, (640, 640), cost(cleaned))
    assert found is not None and (found.network, found.one) == (name, fps)
