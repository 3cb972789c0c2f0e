"""Street scenes that this project draws itself, with their true boxes.

Two classes differ in colour alone and two in shape alone, so that swapped colour channels or a
stretched picture are seen at once. A seed gives the same scene everywhere.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from onchip.detections import Detections
from onchip.vision.preprocess import Image

LABELS = ("red car", "blue car", "person", "round sign", "oval sign")
SIZES = ((640, 360), (640, 360), (480, 270), (360, 480))  # width and height
OVERLAP = 0.3  # the most that one object may hide of another

Color = tuple[float, float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Light:
    """The time of day: sky at the top and at the horizon, ground, and how bright all is."""

    top: Color
    low: Color
    ground: Color
    level: float


LIGHTS = (
    _Light((235, 190, 130), (245, 225, 200), (105, 110, 112), 1.0),  # day
    _Light((205, 195, 185), (220, 215, 210), (98, 100, 102), 0.9),  # overcast
    _Light((120, 75, 70), (110, 150, 240), (80, 76, 84), 0.75),  # dusk
    _Light((50, 28, 20), (85, 60, 50), (58, 52, 50), 0.55),  # night
)


def render(seed: int) -> tuple[Image, Detections]:
    """Draw one scene and return it (BGR) with its true boxes."""
    random = np.random.default_rng(seed)
    width, height = SIZES[int(random.integers(len(SIZES)))]
    light = LIGHTS[int(random.integers(len(LIGHTS)))]
    horizon = height * random.uniform(0.3, 0.45)
    canvas = _backdrop(random, light, width, height, horizon)
    boxes: list[Box] = []
    classes: list[int] = []
    for feet in sorted(random.uniform(horizon + 0.06 * height, height * 0.97, 9)):
        label = int(random.integers(len(LABELS)))
        near = (feet - horizon) / (height - horizon)
        unit = height * (0.08 + 0.34 * near)  # how tall a person is there
        left = random.uniform(0, width)
        box = _outline(label, left, feet, unit, width, random)
        if box is None or any(_hidden(box, other) > OVERLAP for other in boxes):
            continue
        _draw(canvas, label, box, light, random)
        boxes.append(box)
        classes.append(label)
    if not boxes:
        return render(seed + 1_000_003)
    found = np.asarray(boxes, np.float32)
    truth = Detections(found, np.ones(len(found), np.float32), np.asarray(classes))
    return _weather(canvas, random), truth


def _backdrop(
    random: np.random.Generator, light: _Light, width: int, height: int, horizon: float
) -> Image:
    canvas = np.empty((height, width, 3), np.float32)
    steps = np.clip(np.arange(height) / horizon, 0, 1)[:, None]
    canvas[:] = (np.asarray(light.top) * (1 - steps) + np.asarray(light.low) * steps)[:, None]
    canvas[int(horizon) :] = light.ground
    image = canvas.astype(np.uint8)
    _houses(image, random, light, horizon)
    far, near = width * random.uniform(0.4, 0.6), width * random.uniform(0.3, 0.7)
    road = [(far - 8, horizon), (far + 8, horizon), (near + width, height), (near - width, height)]
    _fill(image, road, tuple(0.8 * c for c in light.ground))
    for part in np.linspace(0.05, 0.95, 7):
        y1, y2 = (
            horizon + (height - horizon) * part**2,
            horizon + (height - horizon) * (part + 0.07) ** 2,
        )
        x1, x2 = far + (near - far) * part**2, far + (near - far) * (part + 0.07) ** 2
        w = 1 + 9 * part**2
        _fill(image, [(x1 - w, y1), (x1 + w, y1), (x2 + w, y2), (x2 - w, y2)], (190, 200, 200))
    return image


def _houses(image: Image, random: np.random.Generator, light: _Light, horizon: float) -> None:
    x = 0.0
    while x < image.shape[1]:
        wide, tall = random.uniform(30, 110), random.uniform(0.2, 0.85) * horizon
        shade = random.uniform(60, 170) * light.level
        wall = (shade, shade * random.uniform(0.9, 1.05), shade * random.uniform(0.95, 1.15))
        top = horizon - tall
        _fill(image, [(x, top), (x + wide, top), (x + wide, horizon), (x, horizon)], wall)
        lit = (120, 220, 250) if light.level < 0.8 else (150, 130, 110)
        for row in np.arange(top + 6, horizon - 8, 14):
            for column in np.arange(x + 5, x + wide - 8, 12):
                if random.random() < 0.6:
                    cell = [(column, row), (column + 6, row), (column + 6, row + 8)]
                    _fill(image, [*cell, (column, row + 8)], lit)
        x += wide + random.uniform(-5, 25)


def _outline(
    label: int,
    left: float,
    feet: float,
    unit: float,
    width: int,
    random: np.random.Generator,
) -> Box | None:
    """Return where an object of a class stands, or None where it would leave the picture."""
    tall, wide = {
        0: (0.75, 1.75),
        1: (0.75, 1.75),
        2: (1.0, 0.36),
        3: (0.62, 0.62),
        4: (0.36, 0.64),
    }[label]
    size = unit * random.uniform(0.85, 1.15)
    tall, wide = tall * size, wide * size
    bottom = feet - (0.9 * unit if label >= 3 else 0)  # signs stand on poles
    if left + wide > width - 1 or bottom - tall < 1 or tall < 9 or wide < 9:
        return None
    return (left, bottom - tall, left + wide, bottom)


def _hidden(box: Box, other: Box) -> float:
    """Return how much of the smaller box the two share."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    tall = min(box[3], other[3]) - max(box[1], other[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return wide * tall / min(areas)


def _draw(image: Image, label: int, box: Box, light: _Light, random: np.random.Generator) -> None:
    if label <= 1:
        _car(image, box, label, light, random)
    elif label == 2:
        _person(image, box, light, random)
    else:
        _sign(image, box, light, random)


def _car(image: Image, box: Box, label: int, light: _Light, random: np.random.Generator) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    strong, weak = random.uniform(170, 235), random.uniform(20, 75)
    paint: Color = (weak, weak, strong) if label == 0 else (strong, weak + 30, weak)
    paint = tuple(c * light.level for c in paint)  # type: ignore[assignment]
    dark: Color = tuple(0.55 * c for c in paint)  # type: ignore[assignment]
    facing = 1 if random.random() < 0.5 else -1

    def at(x: float, y: float) -> tuple[float, float]:
        return (x1 + w * (x if facing > 0 else 1 - x), y1 + h * y)

    _fill(image, [at(0.02, 0.97), at(0.98, 0.97), at(0.94, 1.0), at(0.06, 1.0)], (25, 25, 25))
    cabin = [at(0.2, 0.42), at(0.32, 0.0), at(0.68, 0.0), at(0.84, 0.42)]
    _fill(image, cabin, dark)
    glass: Color = tuple(c * light.level for c in (210, 190, 160))  # type: ignore[assignment]
    _fill(image, [at(0.26, 0.4), at(0.35, 0.07), at(0.49, 0.07), at(0.49, 0.4)], glass)
    _fill(image, [at(0.53, 0.4), at(0.53, 0.07), at(0.66, 0.07), at(0.77, 0.4)], glass)
    body = [at(0.0, 0.5), at(0.05, 0.38), at(0.9, 0.38), at(1.0, 0.52), at(1.0, 0.82)]
    _fill(image, [*body, at(0.0, 0.82)], paint)
    _fill(image, [at(0.0, 0.68), at(1.0, 0.68), at(1.0, 0.84), at(0.0, 0.84)], dark)
    _fill(image, [at(0.93, 0.52), at(1.0, 0.56), at(1.0, 0.64), at(0.93, 0.6)], (190, 245, 255))
    for center in (0.22, 0.78):
        _disc(image, at(center, 0.82), (0.18 * h, 0.18 * h), (22, 22, 22))
        _disc(image, at(center, 0.82), (0.09 * h, 0.09 * h), (150, 150, 150))


def _person(image: Image, box: Box, light: _Light, random: np.random.Generator) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    coat = tuple(random.uniform(60, 200) * light.level * c for c in (0.6, 1.0, 0.75))
    legs = tuple(random.uniform(30, 90) * light.level for _ in range(3))
    skin = tuple(c * light.level * random.uniform(0.6, 1.0) for c in (150, 180, 225))
    stride = random.uniform(0.05, 0.5) * w
    middle = x1 + w / 2
    for side in (-1, 1):
        foot = middle + side * stride
        hip = (middle + side * 0.16 * w, y1 + 0.55 * h)
        _fill(
            image,
            [
                (hip[0] - 0.16 * w, hip[1]),
                (hip[0] + 0.16 * w, hip[1]),
                (foot + 0.14 * w, y2),
                (foot - 0.14 * w, y2),
            ],
            legs,
        )
    torso = [(x1 + 0.12 * w, y1 + 0.2 * h), (x2 - 0.12 * w, y1 + 0.2 * h)]
    _fill(image, [*torso, (x2, y1 + 0.56 * h), (x1, y1 + 0.56 * h)], coat)
    _disc(image, (middle, y1 + 0.1 * h), (0.1 * h, 0.1 * h), skin)


def _sign(image: Image, box: Box, light: _Light, random: np.random.Generator) -> None:
    x1, y1, x2, y2 = box
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    half = (x2 - x1) / 2, (y2 - y1) / 2
    pole = max(1.0, 0.06 * (y2 - y1))
    foot = y2 + 1.4 * (y2 - y1)
    left, right = middle[0] - pole, middle[0] + pole
    grey = tuple(c * light.level for c in (130, 130, 130))
    _fill(image, [(left, y2), (right, y2), (right, foot), (left, foot)], grey)
    rim = tuple(c * (0.4 + 0.6 * light.level) for c in (60, 200, 235))
    face = tuple(c * (0.4 + 0.6 * light.level) for c in (235, 240, 240))
    _disc(image, middle, half, rim)
    _disc(image, middle, (half[0] * 0.74, half[1] * 0.74), face)
    bar = half[0] * 0.4, half[1] * random.uniform(0.12, 0.3)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    _fill(
        image, [(middle[0] + a * bar[0], middle[1] + b * bar[1]) for a, b in corners], (50, 50, 50)
    )


def _fill(image: Image, points: list[tuple[float, float]], color: tuple[float, ...]) -> None:
    cv2.fillPoly(image, [np.rint(np.asarray(points) * 16).astype(np.int32)], color, cv2.LINE_AA, 4)


def _disc(
    image: Image,
    center: tuple[float, float],
    radius: tuple[float, float],
    color: tuple[float, ...],
) -> None:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = center[0] + radius[0] * np.cos(turn), center[1] + radius[1] * np.sin(turn)
    _fill(image, list(zip(x.tolist(), y.tolist(), strict=True)), color)


def _weather(image: Image, random: np.random.Generator) -> Image:
    """Rain, a little blur, and the noise of a sensor."""
    if random.random() < 0.25:
        for _ in range(120):
            x, y = random.uniform(0, image.shape[1]), random.uniform(0, image.shape[0])
            end = (round(x - 4), round(y + 14))
            cv2.line(image, (round(x), round(y)), end, (200, 200, 200), 1, cv2.LINE_AA)
    if random.random() < 0.4:
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), 0), np.uint8)
    noise: npt.NDArray[np.float64] = random.normal(0, random.uniform(1, 7), image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def write(folder: Path, count: int, first_seed: int, split: str = "val") -> Path:
    """Write scenes as a data set in YOLO layout and return its `data.yaml`."""
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for seed in range(first_seed, first_seed + count):
        image, truth = render(seed)
        size = np.asarray([image.shape[1], image.shape[0]] * 2)
        lines = []
        for box, _, label in truth:
            x1, y1, x2, y2 = box / size
            lines.append(
                f"{label} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}"
            )
        cv2.imwrite(str(images / f"{seed:06}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        (labels / f"{seed:06}.txt").write_text("\n".join(lines) + "\n")
    notes = folder / "data.yaml"
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(LABELS))
    notes.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n")
    return notes
