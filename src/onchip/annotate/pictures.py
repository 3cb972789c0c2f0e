"""How a photo gets onto the screen: its own bytes wherever a browser can show them.

Sizes come from the head of the file; nothing is decoded for them. What a browser cannot show, or
should not have to hold in memory, is converted for the screen alone; no file is ever changed.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from onchip.annotate.photos import MissingError, Photo, Photos
from onchip.errors import InputError
from onchip.vision.preprocess import decode_image, read_image

BROWSERS_SHOW = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png"}
BROWSERS_SHOW |= {"WEBP": "image/webp", "BMP": "image/bmp"}
TURNED = 0x0112  # the EXIF tag that says which way up a photo is
MAX_PIXELS = 40_000_000  # more are scaled down for the screen
VIEW_PIXELS = 24_000_000
MAX_BYTES = 256 << 20  # of one photo's file
QUALITY = 92  # of the JPEG that stands in for it
KEPT = 3  # converted photos


@dataclass(frozen=True)
class Picture:
    """A photo's upright width and height, its kind, and whether it is shown as it is."""

    width: int
    height: int
    kind: str  # media type
    as_is: bool
    note: str = ""


def look(path: Path, name: str) -> Picture:
    """Read a photo's size and kind from the head of its file.

    Raises:
        InputError: it is empty, no image, or too large for anyone.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not path.stat().st_size:
            raise InputError(f"{name} is empty (0 bytes)", "take it again, or remove it")
        with Image.open(path) as image:
            kind = str(image.format)
            jpeg = BROWSERS_SHOW.get(kind) == "image/jpeg"
            turned = 1 if jpeg else int(image.getexif().get(TURNED, 1) or 1)
            exif = bytes(image.info.get("exif", b""))
            frames = int(getattr(image, "n_frames", 1))
            width, height = image.size
            mode = image.mode
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has too many pixels to be shown", "make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is no image, or a damaged one", "remove or replace it") from error
    except (OSError, ValueError, SyntaxError, TypeError, MemoryError) as error:
        raise InputError(f"{name} is damaged: {error}", "remove or replace it") from error
    as_is = (
        kind in BROWSERS_SHOW
        and width * height <= MAX_PIXELS
        and not mode.startswith(("I", "F"))
        # browsers and OpenCV agree on how a JPEG is turned; on other kinds they need not
        and turned == 1
    )
    if turned != 1:
        height, width = read_image(path).shape[:2]  # libraries differ in what they turn
    elif jpeg and exif and _sideways(exif):
        width, height = height, width
    notes = []
    if frames > 1 and kind != "MPO":
        notes.append("the first of several pictures")
    if width * height > MAX_PIXELS:
        notes.append(f"{width * height / 1e6:.0f} megapixels, shown smaller")
    media = BROWSERS_SHOW.get(kind, "application/octet-stream")
    return Picture(width, height, media, as_is, ", ".join(notes))


def _sideways(exif: bytes) -> bool:
    """Whether a JPEG with this EXIF lies on its side for OpenCV, and so for training.

    A tiny one with the same EXIF is asked: where it is odd, libraries read it differently, and some
    ask XMP as well.
    """
    exif = exif[: 0xFFFF - 2]
    _, made = cv2.imencode(".jpg", np.zeros((8, 16, 3), np.uint8))
    tiny = made.tobytes()
    tiny = tiny[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + tiny[2:]
    height, width = decode_image(np.frombuffer(tiny, np.uint8), "a tiny JPEG").shape[:2]
    return bool(height > width)


def view(data: bytes, name: str) -> bytes:
    """Return a JPEG of a photo for the screen, upright, with at most `VIEW_PIXELS`.

    Raises:
        InputError: it is not an image.
    """
    image = decode_image(np.frombuffer(data, np.uint8), name)
    height, width = image.shape[:2]
    scale = (VIEW_PIXELS / (width * height)) ** 0.5
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, made = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return made.tobytes()


class Pictures:
    """Hands out photos for the screen; converted ones are kept for a little while."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos
        self._made: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._looked: dict[tuple[str, str], Picture] = {}
        self._lock = threading.Lock()  # one large photo in memory at a time

    def look(self, photo: Photo) -> tuple[Picture, str]:
        """Return what a photo is, and the tag of its file.

        Raises:
            MissingError: it is gone.
            InputError: it is no image.
        """
        tag = self.photos.tag(photo)
        if (photo.id, tag) not in self._looked:
            self._looked[photo.id, tag] = look(photo.path, photo.name)
        return self._looked[photo.id, tag], tag

    def shown(self, photo: Photo, upright: bool = False) -> tuple[bytes, str]:
        """Return what the browser is to show, and its media type; `upright` is always converted.

        Raises:
            MissingError: it is gone.
            InputError: it is no image.
        """
        picture, tag = self.look(photo)
        if picture.as_is and not upright:
            return self._open(photo), picture.kind
        with self._lock:
            made = self._made.get((photo.id, tag))
            if made is None:
                made = self._made[photo.id, tag] = view(self._open(photo), photo.name)
            self._made.move_to_end((photo.id, tag))
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        return made, "image/jpeg"

    def _open(self, photo: Photo) -> bytes:
        try:
            size = photo.path.stat().st_size
            if size <= MAX_BYTES:
                return photo.path.read_bytes()
        except OSError as error:
            raise MissingError(f"cannot read {photo.name}: {error.strerror}") from error
        raise MissingError(f"{photo.name} is a file of {size >> 20} MiB, which is too large")
