"""Letterbox, decoding and NMS, by properties."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.detections import Detections, iou
from onchip.errors import InputError
from onchip.spec import HeadSpec, HeadTensor, InputSpec
from onchip.vision.decode import decode
from onchip.vision.nms import nms
from onchip.vision.preprocess import find_images, letterbox, place, prepare, read_image

sizes = st.tuples(st.integers(8, 900), st.integers(8, 900))


@given(sizes, st.sampled_from(["center", "topleft", "stretch"]), st.integers(0, 99))
def test_letterbox_undoes_itself(size: tuple[int, int], kind: str, seed: int) -> None:
    spec = InputSpec(name="x", width=320, height=192, letterbox=kind)  # type: ignore[arg-type]
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 1, (5, 4)) * [*size, *size]
    boxes = np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    box = place(size, spec)
    np.testing.assert_allclose(box.undo(box.apply(boxes.astype(np.float32))), boxes, atol=0.02)
    inside = box.apply(np.array([[0, 0, *size]], np.float32))[0]
    assert inside.min() >= -0.51
    assert inside[2] <= 320.51
    assert inside[3] <= 192.51


@settings(deadline=None)
@given(sizes, st.sampled_from(["center", "topleft"]))
def test_letterbox_keeps_the_shape_and_pads_the_rest(size: tuple[int, int], kind: str) -> None:
    spec = InputSpec(name="x", width=64, height=64, letterbox=kind, pad=7)  # type: ignore[arg-type]
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    canvas, box = letterbox(image, spec)
    assert canvas.shape == (64, 64, 3)
    photo = (canvas == 200).all(2)
    assert photo.sum() + (canvas == 7).all(2).sum() == 64 * 64
    assert photo.any(0).sum() == max(1, round(size[0] * box.scale[0]))


def test_prepare_orders_colours_and_scales() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:] = (10, 20, 30)  # blue, green, red
    spec = InputSpec(name="x", width=4, height=4, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    tensor, _ = prepare(image, spec)
    assert tensor.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(tensor[0, :, 0, 0], [29, 9, 1.75])
    whole = InputSpec(name="x", width=4, height=4, dtype="uint8", layout="nhwc", color="bgr")
    np.testing.assert_array_equal(prepare(image, whole)[0][0, 0, 0], [10, 20, 30])


def many(seed: int, count: int = 60) -> Detections:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([low, low + random.uniform(2, 40, (count, 2))], 1)
    return Detections(boxes, random.uniform(0, 1, count), random.integers(0, 3, count))


@given(st.integers(0, 999), st.floats(0.1, 0.9))
def test_nms_equals_the_plain_definition(seed: int, threshold: float) -> None:
    found = many(seed)
    kept: list[int] = []
    for i in np.argsort(-found.scores, kind="stable"):
        same = [k for k in kept if found.classes[k] == found.classes[i]]
        if not same or iou(found.boxes[[i]], found.boxes[same]).max() <= threshold:
            kept.append(int(i))
    result = nms(found, threshold)
    # planes apart cost a few bits of the coordinates; only ties at the threshold may differ
    assert abs(len(result) - len(kept)) <= 1
    if len(result) == len(kept):
        np.testing.assert_allclose(result.scores, found.scores[kept])


@given(st.integers(0, 999))
def test_nms_is_idempotent_and_sorted(seed: int) -> None:
    once = nms(many(seed, 700), 0.5)
    again = nms(once, 0.5)
    assert len(again) == len(once)
    assert (np.diff(once.scores) <= 0).all()
    assert len(nms(many(seed), 0.5, 3)) <= 3


def test_odd_images_are_read(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 256)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([grey] * 4))
    for path in tmp_path.glob("*.png"):
        image = read_image(path)
        assert image.shape == (6, 8, 3)
        assert image.dtype == np.uint8


def test_exif_and_cmyk(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow writes the CMYK and EXIF samples")
    photo = pillow.new("RGB", (8, 6), (200, 10, 10))
    exif = photo.getexif()
    exif[274] = 6  # turned by a quarter
    photo.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 6, 3)
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert read_image(tmp_path / "cmyk.jpg").shape == (6, 8, 3)


@pytest.mark.parametrize("content", [b"", b"\x00" * 30, b"\xff\xd8\xff\xe0 no more"])
def test_what_is_no_image_says_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"empty|not a readable image"):
        read_image(path)


def test_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(InputError, match="no image matches"):
        find_images(f"{tmp_path}/*.jpg")
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((4, 4, 3), np.uint8))
    assert find_images(f"{tmp_path}/*.jpg") == find_images(tmp_path)


def test_boxes_that_a_program_found_itself() -> None:
    labels = ("a", "b")
    tensor = HeadTensor(name="nms", node="", role="all", stride=1, start=0, stop=2)
    head = HeadSpec(
        family="yolov8", coding="found", scoring="class", labels=labels, tensors=(tensor,)
    )
    whole = np.zeros((1, 2, 5, 3), np.float32)
    whole[0, 1, :, 0] = (0.1, 0.2, 0.5, 0.6, 0.9)  # top, left, bottom, right, score
    whole[0, 1, :, 1] = (0.11, 0.2, 0.5, 0.6, 0.8)  # the same object once more
    whole[0, 0, :, 0] = (0.0, 0.0, 1.0, 1.0, 0.2)  # too faint
    found = decode(head, {"nms": whole}, (640, 320), confidence=0.25)
    np.testing.assert_allclose(found.boxes, [[128, 32, 384, 160]])
    assert found.classes.tolist() == [1]
    assert len(decode(head, {"nms": whole}, (640, 320), confidence=0)) == 2  # none of the unused
