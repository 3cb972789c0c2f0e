"""mAP against the reference implementation, and the other yardsticks."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.dataset.samples import Dataset
from onchip.detections import Detections
from onchip.errors import InputError
from onchip.measure.accuracy import accuracy, match
from onchip.measure.evaluate import check_classes
from onchip.measure.parity import pair, parity


def scene(random: np.random.Generator, classes: int) -> tuple[Detections, Detections]:
    """True boxes, and detections that are some of them moved a little, and some that are wrong."""
    count = int(random.integers(0, 8))
    low = random.uniform(0, 80, (count, 2))
    truth = Detections(
        np.concatenate([low, low + random.uniform(5, 40, (count, 2))], 1),
        np.ones(count),
        random.integers(0, classes, count),
    )
    extra = int(random.integers(0, 6))
    wrong = random.uniform(0, 80, (extra, 2))
    boxes = np.concatenate(
        [
            truth.boxes + random.normal(0, 2, (count, 4)),
            np.concatenate([wrong, wrong + random.uniform(5, 40, (extra, 2))], 1),
        ]
    )
    boxes = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:]) + 1], 1
    )
    labels = np.concatenate([truth.classes, random.integers(0, classes, extra)])
    return truth, Detections(boxes, random.uniform(0.01, 1, count + extra), labels)


def reference(scenes: list[tuple[Detections, Detections]], classes: int) -> tuple[float, float]:
    truths, found = [], []
    for image, (truth, seen) in enumerate(scenes):
        for box, _, label in truth:
            x1, y1, x2, y2 = map(float, box)
            row = {"id": len(truths) + 1, "image_id": image, "category_id": label, "iscrowd": 0}
            truths.append(
                {**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            )
        for box, score, label in seen:
            x1, y1, x2, y2 = map(float, box)
            row = {"image_id": image, "category_id": label, "score": score}
            found.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    with contextlib.redirect_stdout(io.StringIO()):
        whole = COCO(
            {
                "images": [{"id": i, "width": 200, "height": 200} for i in range(len(scenes))],
                "annotations": truths,
                "categories": [{"id": i, "name": str(i)} for i in range(classes)],
            }
        )
        run = COCOeval_faster(whole, whole.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0]), float(run.stats[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_map_equals_the_reference(seed: int) -> None:
    random = np.random.default_rng(seed)
    scenes = [scene(random, 3) for _ in range(12)]
    if not any(len(t) for t, _ in scenes) or not any(len(d) for _, d in scenes):
        return
    matches = [match(found, truth, 3) for truth, found in scenes]
    ours = accuracy(matches, 3, resamples=0)
    assert (ours.map50_95, ours.map50) == pytest.approx(reference(scenes, 3), abs=1e-6)


def test_interval_covers_the_estimate_and_narrows_with_images() -> None:
    random = np.random.default_rng(1)
    few = [match(f, t, 2) for t, f in (scene(random, 2) for _ in range(12))]
    many = [match(f, t, 2) for t, f in (scene(random, 2) for _ in range(200))]
    widths = []
    for matches in (few, many):
        found = accuracy(matches, 2)
        assert found.interval[0] <= found.map50_95 <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert widths[1] < widths[0] / 2


def test_perfect_detections_score_one_and_none_zero() -> None:
    truth = Detections(np.array([[0, 0, 9, 9]]), np.ones(1), np.zeros(1))
    assert accuracy([match(truth, truth, 1)], 1).map50_95 == pytest.approx(1)
    assert accuracy([match(Detections.empty(), truth, 1)], 1).map50_95 == 0


@given(st.integers(0, 1000))
def test_parity_with_oneself_is_perfect(seed: int) -> None:
    _, found = scene(np.random.default_rng(seed), 2)
    same = parity([pair(found, found)])
    assert same.matched == 1
    assert same.score_shift == pytest.approx(0)
    if len(found):
        assert same.mean_iou == pytest.approx(1, abs=1e-5)


@given(st.integers(0, 1000))
def test_matching_is_symmetric(seed: int) -> None:
    first, second = scene(np.random.default_rng(seed), 2)
    assert parity([pair(first, second)]).matched == parity([pair(second, first)]).matched


@pytest.mark.data
def test_map_of_a_real_model_equals_the_reference(data: Path) -> None:
    from onchip.dataset.samples import load
    from onchip.detect.program import FOR_ACCURACY, Program
    from onchip.graph.clean import clean
    from onchip.graph.pixels import declared, input_spec
    from onchip.graph.prove import cut
    from onchip.graph.read import read
    from onchip.graph.run import Runner
    from onchip.vision.preprocess import read_image

    model = clean(read(data / "models" / "yolov5n.onnx")).model
    found = cut(model)
    program = Program(Runner(found.model.bytes), input_spec(model, declared(model)), found.head)
    scenes, matches = [], []
    for sample in load(data / "coco" / "data.yaml").samples[:16]:
        image = read_image(sample.path)
        truth, seen = sample.truth((image.shape[1], image.shape[0])), program(image, FOR_ACCURACY)
        scenes.append((truth, seen))
        matches.append(match(seen, truth, 80))
    ours = accuracy(matches, 80, resamples=0)
    assert (ours.map50_95, ours.map50) == pytest.approx(reference(scenes, 80), abs=1e-4)
    assert ours.map50_95 > 0.25


def test_classes_in_another_order_are_not_measured() -> None:
    data = Dataset((), ("car", "person"))
    check_classes(data, ("car", "person"))
    check_classes(data, ("0", "1"))  # the model does not say what they are called
    with pytest.raises(InputError, match="class 0 is car to the data set and person to the model"):
        check_classes(data, ("person", "car"))
    with pytest.raises(InputError, match="has 2 classes, but the model has 1"):
        check_classes(data, ("car",))
