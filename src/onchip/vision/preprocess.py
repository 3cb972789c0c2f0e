"""From an image to the tensor that the network expects, and boxes back again.

This is the only letterbox: calibration, evaluation and every runtime use it.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from onchip.detections import Floats
from onchip.errors import InputError
from onchip.spec import InputSpec

Image = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32] | npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Letterbox:
    """Where an image landed in the network's input: `input = pixel * scale + offset`, per axis."""

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]  # width and height of the original image

    def undo(self, boxes: Floats) -> Floats:
        """Return boxes `(n, 4)` in input pixels as boxes in pixels of the original image."""
        offset = np.asarray(self.offset * 2, np.float32)
        scale = np.asarray(self.scale * 2, np.float32)
        limit = np.asarray(self.size * 2, np.float32)
        return np.clip((boxes - offset) / scale, 0, limit)

    def apply(self, boxes: Floats) -> Floats:
        """Return boxes `(n, 4)` in pixels of the original image as boxes in input pixels."""
        return boxes * np.asarray(self.scale * 2, np.float32) + np.asarray(
            self.offset * 2, np.float32
        )


def read_image(path: Path) -> Image:
    """Read a photo as BGR bytes `(H, W, 3)`, turned upright as its EXIF says.

    Grey, CMYK, 16-bit and transparent images are converted.

    Raises:
        InputError: the file is missing, empty or not an image.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return decode_image(data, str(path))


def decode_image(data: npt.NDArray[np.uint8], name: str) -> Image:
    """Decode the bytes of an image file as `read_image` does; `name` is for the error."""
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise InputError(f"{name} is not a readable image", f"OpenCV says: {error.err}") from error
    if image is None:
        raise InputError(
            f"{name} is {'empty' if not data.size else 'not a readable image'}",
            "allowed are jpg, png, bmp, webp and tiff files; remove or replace this one",
        )
    return np.asarray(image, np.uint8)


def place(size: tuple[int, int], spec: InputSpec) -> Letterbox:
    """Return where an image of `size` (width, height) lands in the input of `spec`."""
    width, height = size
    if spec.letterbox == "stretch":
        return Letterbox((spec.width / width, spec.height / height), (0, 0), size)
    ratio = min(spec.width / width, spec.height / height)
    inner = _inner(size, ratio)
    offset = (0, 0)
    if spec.letterbox == "center":
        # Odd gaps put the spare pixel right and below, as the frameworks' own loaders do.
        gaps = (spec.width - inner[0]) / 2, (spec.height - inner[1]) / 2
        offset = (round(gaps[0] - 0.1), round(gaps[1] - 0.1))
    return Letterbox((ratio, ratio), offset, size)


def _inner(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def letterbox(image: Image, spec: InputSpec) -> tuple[Image, Letterbox]:
    """Scale an image `(H, W, 3)` into the input's size as `spec` says; colours stay as they are."""
    height, width = image.shape[:2]
    box = place((width, height), spec)
    if spec.letterbox == "stretch":
        return _resize(image, (spec.width, spec.height)), box
    inner = _inner((width, height), box.scale[0])
    canvas = np.full((spec.height, spec.width, 3), spec.pad, np.uint8)
    left, top = int(box.offset[0]), int(box.offset[1])
    canvas[top : top + inner[1], left : left + inner[0]] = _resize(image, inner)
    return canvas, box


def _resize(image: Image, size: tuple[int, int]) -> Image:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def prepare(image: Image, spec: InputSpec) -> tuple[Tensor, Letterbox]:
    """Turn a BGR image `(H, W, 3)` into the input tensor of `spec`, shape `spec.shape`."""
    canvas, box = letterbox(image, spec)
    pixels = _planes(canvas, spec) if spec.layout == "nchw" else _rows(canvas, spec)
    return (pixels if spec.dtype == "uint8" else _normalize(pixels, spec))[None], box


def _rows(canvas: Image, spec: InputSpec) -> Image:
    """Return `(H, W, 3)` in the input's colour order."""
    if spec.color == "bgr":
        return canvas
    return np.asarray(cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB), np.uint8)


def _planes(canvas: Image, spec: InputSpec) -> Image:
    """Return `(3, H, W)` in the input's colour order, in one pass."""
    planes = np.empty((3, *canvas.shape[:2]), np.uint8)
    order = planes if spec.color == "bgr" else planes[::-1]
    cv2.split(canvas, list(order))
    return planes


def _normalize(pixels: Image, spec: InputSpec) -> npt.NDArray[np.float32]:
    if spec.uniform:
        return np.multiply(pixels, 1 / spec.std[0], dtype=np.float32)
    shape = (3, 1, 1) if spec.layout == "nchw" else (3,)
    mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (spec.mean, spec.std))
    return (pixels.astype(np.float32) - mean) / std


def find_images(source: str | Path) -> list[Path]:
    """Return the images that `source` names: a file, a folder (searched whole) or a glob.

    A `.txt` file lists images, one on each line, from the folder that it stands in.

    Raises:
        InputError: nothing is there, or the folder or list holds no image.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        # hidden ones are what a mended data set keeps of before, or notes of another system
        found = [p for p in found if not _hidden(p.relative_to(path))]
        if not found:
            raise InputError(f"no images in {path}", "allowed are jpg, png, bmp, webp and tiff")
        return found
    if path.is_file():
        return _listed(path) if path.suffix.lower() == ".txt" else [path]
    if any(c in str(source) for c in "*?["):
        root = Path(path.anchor or ".")
        pattern = str(path.relative_to(path.anchor)) if path.anchor else str(path)
        found = sorted(p for p in root.glob(pattern) if p.suffix.lower() in IMAGE_SUFFIXES)
        if found:
            return found
        raise InputError(f"no image matches {source}")
    raise InputError(f"{source} does not exist")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {path}: {error}") from error
    found = [path.parent / line.strip() for line in lines if line.strip()]
    if wrong := [p for p in found if p.suffix.lower() not in IMAGE_SUFFIXES or "\0" in str(p)]:
        raise InputError(
            f"{path} is no list of images: it names {wrong[0].name[:80]}", "one image on each line"
        )
    if not found:
        raise InputError(f"{path} lists no images", "one image on each line")
    return found
