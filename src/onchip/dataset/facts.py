"""What one image file is: read by its content, whatever its name says, and kept small.

A damaged or hostile file ends in a `fault`, never in an exception: a data set of ten thousand
photos is looked through to its end. JPEGs are decoded at an eighth of their size where that is
enough, which still reads all of their bytes.
"""

import stat
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import xxhash

from onchip.vision.preprocess import Image

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


THUMB = 64  # pixels of a side of the small picture that is kept of each image, squeezed to a square
QUALITY = 85
MAX_BYTES = 512 << 20
MAX_PIXELS = 128_000_000  # the most that is decoded; a JPEG of four times as many
ORIENTATION = 0x0112  # EXIF's tag for how the camera was held; 1 is upright

# What an image says of itself in its first bytes: (start, bytes, kind). HEIC and AVIF are told
# apart by the name that follows "ftyp".
MARKS = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (8, b"WEBP", "webp"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"GIF8", "gif"),
    (0, b"\xff\x0a", "jpeg xl"),
    (0, b"\0\0\0\x0cJXL ", "jpeg xl"),
    (0, b"\0\0\0\x0cjP  ", "jpeg 2000"),
    (0, b"8BPS", "psd"),
    (0, b"%PDF", "pdf"),
    (4, b"ftypavi", "avif"),
    (4, b"ftyp", "heic"),
)
# A bad file makes Pillow's decoders raise nearly anything; what they raise for is the file.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One image file. `fault` is the code of what keeps it from being used, `why` says it.

    Faults: "missing-image", "unreadable", "empty-file", "not-image", "truncated", "huge" (it was
    not decoded for its size).
    """

    size: tuple[int, int] = (0, 0)  # width and height, upright; zeros where it is not known
    kind: str = ""  # by content: "jpeg", "png", …
    orientation: int = 1  # as EXIF numbers it
    frames: int = 1
    tail: bool = False  # a JPEG with bytes behind its end
    digest: bytes = b""  # of the whole file
    thumb: bytes = b""  # THUMB x THUMB pixels, upright, as JPEG
    fault: str = ""
    why: str = ""

    def picture(self) -> Image:
        """Return the small picture, BGR, `(THUMB, THUMB, 3)`."""
        image = cv2.imdecode(np.frombuffer(self.thumb, np.uint8), cv2.IMREAD_COLOR)
        return np.asarray(image, np.uint8)


def facts(path: Path) -> Facts:
    """Look at one image file."""
    from PIL.PngImagePlugin import PngImageFile

    try:
        data = _bytes(path)
    except FileNotFoundError:
        return Facts(fault="missing-image", why="is not there")
    except OSError as error:
        return Facts(fault="unreadable", why=f"cannot be read: {error.strerror or error}")
    if not data:
        return Facts(fault="empty-file", why="is empty (0 bytes)")
    digest, kind = xxhash.xxh3_128_digest(data), kind_of(data)
    try:
        image = _opened(data, kind)
    except DAMAGE as error:
        return Facts(kind=kind, digest=digest, fault="not-image", why=_damaged(kind, error))
    if image is None:
        return Facts(kind=kind, digest=digest, fault="not-image", why=_foreign(kind))
    orientation = _orientation(image)
    size = (image.height, image.width) if orientation >= 5 else image.size
    known = {"size": size, "kind": kind, "orientation": orientation, "digest": digest}
    most = MAX_PIXELS * (4 if kind == "jpeg" else 1)
    if size[0] * size[1] > most:
        why = f"has {size[0] * size[1] / 1e6:,.0f} megapixels and was not looked into"
        return Facts(**known, fault="huge", why=why)  # type: ignore[arg-type]
    try:
        frames = int(getattr(image, "n_frames", 1))
        thumb = _thumb(image, orientation)
        if kind == "png":  # decoding passes over wrong checksums; trainers do not
            PngImageFile(BytesIO(data)).verify()
    except DAMAGE as error:
        why = f"is cut off or damaged: {_said(error)}"
        return Facts(**known, fault="truncated", why=why)  # type: ignore[arg-type]
    fault, why = _missed(data, kind)
    tail = kind == "jpeg" and not data.endswith(b"\xff\xd9")
    return Facts(size, kind, orientation, frames, tail, digest, thumb, fault, why)


def kind_of(data: bytes) -> str:
    """Return what kind of file begins so; "" where it is none that photos come in.

    >>> kind_of(b"GIF89a")
    'gif'
    """
    found = (kind for at, mark, kind in MARKS if data[at : at + len(mark)] == mark)
    return next(found, "")


def size_of(path: Path) -> tuple[int, int] | None:
    """Return width and height of an upright image from its first bytes, or None without one."""
    try:
        data = _bytes(path)
        image = _opened(data, kind_of(data))
        if image is None:
            return None
        turned = _orientation(image) >= 5
    except DAMAGE:
        return None
    return (image.height, image.width) if turned else image.size


def _bytes(path: Path) -> bytes:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
        raise OSError(0, "it is no file")
    if found.st_size > MAX_BYTES:
        raise OSError(0, f"it has more than {MAX_BYTES >> 20} MiB")
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _opened(data: bytes, kind: str) -> "ImageFile | None":
    """Open an image without decoding it; None where trainers know no such kind.

    The decoder is chosen here and not by Pillow's open, which refuses what has many pixels before
    it says how many.
    """
    from PIL import (
        BmpImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    decoders: dict[str, type[ImageFile]] = {
        "jpeg": JpegImagePlugin.JpegImageFile,
        "png": PngImagePlugin.PngImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
        "tiff": TiffImagePlugin.TiffImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
    }
    return decoders[kind](BytesIO(data)) if kind in decoders else None


def _orientation(image: "ImageFile") -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:  # EXIF may be broken where the picture is not
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _thumb(image: "ImageFile", orientation: int) -> bytes:
    image.draft("RGB", (THUMB, THUMB))
    image.load()
    pixels = np.asarray(image)
    if pixels.dtype == np.uint16 or image.mode == "I":  # 16 bits: the high byte is what is seen
        pixels = np.stack([(pixels >> 8).clip(0, 255).astype(np.uint8)] * 3, axis=-1)
    else:
        pixels = np.asarray(image.convert("RGB"))
    small = np.asarray(cv2.resize(pixels, (THUMB, THUMB), interpolation=cv2.INTER_AREA), np.uint8)
    turned = upright(small[..., ::-1], orientation)
    _, made = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return made.tobytes()


def upright(pixels: Image, orientation: int) -> Image:
    """Turn a picture `(H, W, 3)` as EXIF's orientation says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    flips = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
    down, across = flips.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::down, ::across])


def small(path: Path, side: int, part: tuple[float, float, float, float]) -> Image | None:
    """Return a part of a picture (BGR, upright) so large that its longer side has `side` pixels.

    `part` is left, top, right, bottom in parts of the image. None where it cannot be shown.
    """
    try:
        data = _bytes(path)
        image = _opened(data, kind_of(data))
        if image is None or image.width * image.height > MAX_PIXELS:
            return None
        turn = _orientation(image)
        share = max(part[2] - part[0], part[3] - part[1])
        image.draft("RGB", (round(side / share), round(side / share)))
    except DAMAGE:
        return None
    try:
        pixels = upright(np.asarray(image.convert("RGB"))[..., ::-1], turn)
    except DAMAGE:  # OpenCV shows of a cut picture what there is
        whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if whole is None:
            return None
        pixels = np.asarray(whole, np.uint8)
    height, width = pixels.shape[:2]
    left, right = round(part[0] * width), max(round(part[2] * width), round(part[0] * width) + 1)
    top, bottom = round(part[1] * height), max(round(part[3] * height), round(part[1] * height) + 1)
    cut = pixels[top:bottom, left:right]
    scale = side / max(cut.shape[:2])
    sides = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(cut, sides, interpolation=way), np.uint8)


def _missed(data: bytes, kind: str) -> tuple[str, str]:
    """Return the fault of a picture that Pillow reads and trainers do not, or nothing."""
    if kind == "jpeg":
        # A cut copy may be filled up with zeros, which decode to grey: it has no end mark then.
        if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            return "truncated", "is cut off: it has no end"
        return "", ""
    if kind == "png":
        return "", ""
    try:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_8)
    except cv2.error:
        read = None
    if read is None:
        return "not-image", f"is a {kind.upper()} of a kind that OpenCV and trainers do not read"
    return "", ""


def _foreign(kind: str) -> str:
    if kind:
        return f"is {kind.upper()} inside, which trainers do not read"
    return "is no image"


def _damaged(kind: str, error: BaseException) -> str:
    return f"is a damaged {kind.upper()}: {_said(error)}"


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
