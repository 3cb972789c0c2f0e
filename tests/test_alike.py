"""Photos that look unlike those of calibration, and those that do not."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onchip.build import build
from onchip.dataset.samples import unlabelled
from onchip.demo import scenes
from onchip.measure.alike import FEWEST, Figures, Look, figures, look, unlike
from onchip.verify import verify
from onchip.vision.preprocess import Image, read_image

MODEL = Path(__file__).parents[1] / "src" / "onchip" / "demo" / "detector.onnx"
DRAWS = 500


def night(image: Image) -> Image:
    random = np.random.default_rng(0)
    dark = (image / 255) ** 1.8 * 0.25 * 255
    return np.clip(dark + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def dark(image: Image) -> Image:
    return (image * 0.35).astype(np.uint8)


def grey(image: Image) -> Image:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def infrared(image: Image) -> Image:
    """Grey, bright in the middle, and noisy."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1.1 - 0.45 * np.minimum(1, x**2 + y**2)
    noise = np.random.default_rng(0).normal(0, 3, (height, width))
    return np.clip(grey(image) * light[..., None] + noise[..., None], 0, 255).astype(np.uint8)


def blurred(image: Image) -> Image:
    return cv2.GaussianBlur(image, (0, 0), 3)


def foggy(image: Image) -> Image:
    return (image * 0.45 + 115).astype(np.uint8)


def small(image: Image) -> Image:
    """What a camera of a quarter of the pixels sees."""
    less = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return cv2.resize(less, image.shape[1::-1])


@pytest.fixture(scope="module")
def train(data: Path) -> list[Figures]:
    return [figures(read_image(p)) for p in sorted((data / "coco/images/train2017").glob("*.jpg"))]


@pytest.fixture(scope="module")
def evaluation(data: Path) -> list[Image]:
    return [read_image(p) for p in sorted((data / "coco/images/val2017").glob("*.jpg"))]


def frames(path: Path) -> Iterator[Image]:
    video = cv2.VideoCapture(str(path))
    for number in range(int(video.get(cv2.CAP_PROP_FRAME_COUNT))):
        read, image = video.read()
        if read and number % 8 == 0:
            yield np.asarray(image, np.uint8)


def drawn(found: Sequence[Figures], count: int, random: np.random.Generator) -> Look | None:
    return look(found[i] for i in random.permutation(len(found))[:count])


def share(calibration: Sequence[Figures], others: Sequence[Figures], counts: tuple[int, int]) -> float:  # fmt: skip
    random = np.random.default_rng(0)
    warned = sum(
        bool(unlike(drawn(calibration, counts[0], random), drawn(others, counts[1], random)))
        for _ in range(DRAWS)
    )
    return warned / DRAWS


@pytest.mark.data
@pytest.mark.parametrize("counts", [(16, 16), (16, 128), (64, 16), (64, 64), (128, 128)])
def test_other_photos_of_the_same_kind_are_alike(
    train: list[Figures], evaluation: list[Image], counts: tuple[int, int]
) -> None:
    assert share(train, [figures(image) for image in evaluation], counts) <= 0.01


@pytest.mark.data
@pytest.mark.parametrize("change", [night, dark, grey, infrared, blurred, foggy, small])
def test_other_light_and_other_cameras_are_not(
    train: list[Figures], evaluation: list[Image], change: Callable[[Image], Image]
) -> None:
    others = [figures(change(image)) for image in evaluation]
    assert share(train, others, (16, 16)) >= 0.95
    assert share(train, others, (64, 64)) == 1.0


@pytest.mark.data
@pytest.mark.parametrize("name", ["car-detection.mp4", "person-bicycle-car-detection.mp4"])
def test_a_camera_is_like_itself_and_unlike_photos(
    data: Path, train: list[Figures], name: str
) -> None:
    found = [figures(image) for image in frames(data / "video" / name)]
    half = len(found) // 2
    assert unlike(look(found[:half]), look(found[half:])) == ()
    assert unlike(look(train), look(found)) != ()


pictures = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)), elements=st.integers(0, 255)
)  # fmt: skip


@given(pictures)
def test_every_picture_has_figures(image: Image) -> None:
    found = figures(image)
    assert found.shape == (6,)
    assert np.isfinite(found).all()


@given(st.lists(pictures, min_size=FEWEST, max_size=FEWEST))
def test_photos_are_like_themselves(images: list[Image]) -> None:
    found = look(figures(image) for image in images)
    assert unlike(found, found) == ()


def test_few_photos_say_nothing() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    assert look([figures(image)] * (FEWEST - 1)) is None
    assert unlike(None, look([figures(image)] * FEWEST)) == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((0, 0, 0, 0, 0, 0), ""),
        ((0, 0, 0, 0, 0, -2), "less sharp"),
        ((-3, 0, 0, 0, 2, 0), "darker and bluer"),
        ((3, -4, 5, 2, 2, 2), "with more colour, with less contrast and lighter"),
    ],
)
def test_what_differs_is_said(change: tuple[float, ...], text: str) -> None:
    usual = Look(images=64, mean=(4.8, 4.1, 3.6, 0.1, -0.1, -1.0), deviation=(1.0,) * 6)
    other = msgspec.structs.replace(
        usual, mean=tuple(m + c for m, c in zip(usual.mean, change, strict=True))
    )
    found = " ".join(v.message for v in unlike(usual, other))
    assert found == (
        text
        and f"the images look unlike those of calibration: {text}; calibrate on images like these, "
        "from the camera itself"
    )


def test_a_proof_on_photos_of_the_night_says_so(tmp_path: Path) -> None:
    def drawn(name: str, seeds: range, change: Callable[[Image], Image]) -> list[Path]:
        (tmp_path / name).mkdir()
        paths = [tmp_path / name / f"{seed}.png" for seed in seeds]
        for path, seed in zip(paths, seeds, strict=True):
            cv2.imwrite(str(path), change(scenes.render(seed)[0]))
        return paths

    def codes(paths: list[Path]) -> list[str]:
        data = unlabelled(paths, made.manifest.head.labels)
        return [v.code for v in verify(made, data, labelled=False).verdicts]

    made = build(MODEL, "cpu", drawn("calibration", range(24), lambda image: image))
    assert "images_unlike" not in codes(drawn("day", range(100, 116), lambda image: image))
    assert "images_unlike" in codes(drawn("night", range(100, 116), night))
