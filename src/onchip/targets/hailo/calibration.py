"""The calibration photos of a build: on the disk for the compiler, packed for another machine.

The compiler gets pixels as the camera gives them, letterboxed, one photo after the other: its own
normalization is a line of the model script.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.errors import InputError
from onchip.sampling import some
from onchip.spec import InputSpec
from onchip.targets.target import Task
from onchip.zips import DAMAGED

PACKED = "calibration"
FILE = "calibration.zip"
MOST = 256  # photos that are packed: some 0.6 MB each at 640x640
LARGEST = 1 << 26  # bytes that one packed photo may have


def taken(spec: InputSpec, *, rgb: bool) -> InputSpec:
    """What the compiled program takes: the pixels themselves, in RGB where the chip swaps them."""
    return replace(spec, dtype="uint8", layout="nhwc", color="rgb" if rgb else spec.color)


def photos(task: Task, spec: InputSpec, count: int = 0) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield so many calibration photos `(1, H, W, 3)` of bytes, 0 is all.

    They are those that were given now, or else those that the artifact brought along.
    """
    some = False
    for tensor in task.photos(spec, count):
        some = True
        yield np.asarray(tensor, np.uint8)
    if not some and PACKED in task.kept:
        yield from _unpacked(task.kept[PACKED], spec, count)


def brought(task: Task) -> dict[str, tuple[str, bytes]]:
    """The packed photos, where those are what the build goes by: for the next one."""
    given = next(iter(task.photos(task.input, 1)), None) is not None
    return {} if given or PACKED not in task.kept else {PACKED: (FILE, task.kept[PACKED])}


def written(task: Task, spec: InputSpec, folder: Path) -> int:
    """Write `0.npy` and so on, each `(H, W, 3)` of bytes, and return how many.

    Raises:
        InputError: there is none, or no room for them.
    """
    number = -1
    for number, tensor in enumerate(photos(task, spec)):
        try:
            np.save(folder / f"{number}.npy", tensor[0])
        except OSError as error:
            raise InputError(
                f"{folder.parent} has no room for the photos, of {tensor.nbytes >> 10} kB each",
                "make room, set TMPDIR to a folder elsewhere, or give fewer (--images)",
            ) from error
    if number < 0:
        raise InputError("Hailo's compiler needs photos", "name a folder of them: -c photos/")
    return number + 1


def packed(task: Task, spec: InputSpec) -> bytes:
    """Return at most `MOST` photos as PNG in a zip archive; empty where there are none."""
    file = io.BytesIO()
    number = -1
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, tensor in enumerate(photos(task, spec, MOST)):
            done, data = cv2.imencode(".png", tensor[0, :, :, ::-1])
            assert done
            entry = zipfile.ZipInfo(f"{number}.png", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, data.tobytes())
    return file.getvalue() if number >= 0 else b""


def _unpacked(data: bytes, spec: InputSpec, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    wanted = spec.shape[1:]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in some(archive.infolist(), count):
                if entry.file_size > LARGEST or entry.compress_type != zipfile.ZIP_STORED:
                    raise _damaged()
                raw = np.frombuffer(archive.read(entry), np.uint8)
                image = cv2.imdecode(raw, cv2.IMREAD_COLOR)
                if image is None or image.shape != wanted:
                    raise _damaged()
                yield np.ascontiguousarray(image[None, :, :, ::-1])
    except (*DAMAGED, cv2.error, OSError) as error:
        raise _damaged() from error


def _damaged() -> InputError:
    return InputError(
        "the artifact's calibration photos are damaged", "give them again: -c photos/"
    )
