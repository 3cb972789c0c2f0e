"""Head tensors that stay a chip's integers until few are left."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onchip.build import Options, build
from onchip.detect.detector import Detector
from onchip.detect.program import Limits
from onchip.vision.codes import Codes, all_real, at_least, real
from onchip.vision.preprocess import find_images, prepare, read_image

import graphs

kinds = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16])
scales = st.floats(1e-6, 1e3)


@given(kinds, scales, st.integers(-200, 300), st.floats(-1e5, 1e5), st.integers(0, 99))
def test_a_threshold_in_codes_is_that_of_real_values(
    kind: type, scale: float, zero: int, value: float, seed: int
) -> None:
    limits = np.iinfo(kind)
    values = np.random.default_rng(seed).integers(limits.min, limits.max + 1, 200, kind)
    values[:2] = limits.min, limits.max
    codes = Codes(values, scale, zero)
    for threshold in (value, float(codes.real()[7]), -np.inf, np.inf):
        np.testing.assert_array_equal(at_least(codes, threshold), codes.real() >= threshold)


@given(scales, st.integers(0, 255))
def test_codes_are_cut_and_turned_as_arrays_are(scale: float, zero: int) -> None:
    codes = Codes(np.arange(24, dtype=np.uint8).reshape(1, 4, 2, 3), scale, zero)
    whole = codes.real()
    np.testing.assert_array_equal(codes.reshape(4, -1)[1:3].real(), whole.reshape(4, -1)[1:3])
    np.testing.assert_array_equal(codes[0].T.real(), whole[0].T)
    assert codes.shape == whole.shape and len(codes) == 1
    assert real(whole) is whole


@pytest.mark.parametrize(
    "family",
    ["yolov8", "yolov6", "yolov5", "yolox", "nanodet", "damo", "ssd", "rtdetr", "end_to_end"],
)
def test_every_family_reads_codes_as_it_reads_floats(
    family: str, tmp_path: Path, photos: Path
) -> None:
    needs = {"end_to_end": {"bins": 1}}.get(family, {})
    path = tmp_path / "net.onnx"
    onnx.save(getattr(graphs, family)(**needs), path)
    with Detector(build(path, "cpu", find_images(photos))) as detector:
        program = detector.program
        for photo in find_images(photos)[:2]:
            tensor, box = prepare(read_image(photo), program.input)
            tensors = detector.session(tensor)
            assert any(isinstance(values, Codes) for values in tensors.values())
            for confidence in (0.0, 0.3, 0.6, 1.0):
                limits = Limits(confidence)
                from_codes = program.read(tensors, box, limits)
                from_floats = program.read(all_real(tensors), box, limits)
                np.testing.assert_array_equal(from_codes.boxes, from_floats.boxes)
                np.testing.assert_array_equal(from_codes.scores, from_floats.scores)
                np.testing.assert_array_equal(from_codes.classes, from_floats.classes)


def test_sixteen_bits_stay_codes(tiny: Path, photos: Path) -> None:
    whole = onnx.load(tiny).graph
    last = tuple(n.name for n in whole.node if n.op_type == "Conv" and n.name.endswith(".2/Conv"))
    made = build(tiny, "cpu", find_images(photos), options=Options(int16=last))
    with Detector(made) as detector:
        tensor, _ = prepare(read_image(find_images(photos)[0]), detector.program.input)
        kinds = {v.values.dtype.name for v in detector.session(tensor).values()}  # type: ignore[union-attr]
    assert last and kinds == {"uint16"}
