"""The demo's scenes and its detector."""

from importlib.resources import files
from pathlib import Path

import numpy as np

from onchip.dataset.samples import load
from onchip.demo.scenes import LABELS, render, write
from onchip.graph.clean import clean
from onchip.graph.prove import cut
from onchip.graph.read import read


def test_a_seed_gives_one_scene() -> None:
    first, second = render(7), render(7)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1].boxes, second[1].boxes)
    assert not np.array_equal(first[0].ravel()[:3000], render(8)[0].ravel()[:3000])


def test_boxes_are_inside_and_every_class_appears() -> None:
    seen: set[int] = set()
    for seed in range(40):
        image, truth = render(seed)
        height, width = image.shape[:2]
        assert len(truth)
        assert truth.boxes.min() >= 0
        assert truth.boxes[:, 2].max() <= width
        assert truth.boxes[:, 3].max() <= height
        assert (truth.boxes[:, 2:] - truth.boxes[:, :2]).min() >= 9
        seen |= set(truth.classes.tolist())
    assert seen == set(range(len(LABELS)))


def test_a_written_data_set_reads_back(tmp_path: Path) -> None:
    data = load(write(tmp_path, 3, 50))
    assert data.labels == LABELS
    image, truth = render(50)
    again = data.samples[0].truth((image.shape[1], image.shape[0]))
    np.testing.assert_allclose(again.boxes, truth.boxes, atol=0.01)


def test_the_bundled_detector_is_small_and_recognised() -> None:
    path = Path(str(files("onchip.demo") / "detector.onnx"))
    assert path.stat().st_size <= 3_000_000
    found = cut(clean(read(path)).model)
    assert found.head.labels == LABELS
    assert (found.head.coding, found.head.reg_max) == ("dfl", 16)
    assert found.proof.passed
