"""What may be given as calibration data, and what is read of it.

Sources: the Hailo Model Zoo gives a function that returns a `tf.data.Dataset` of (image, info);
public scripts give an array, a dictionary of arrays by input layer, or an .npy file or a folder of
such. Frames are `(H, W, C)`; nothing looks at their values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from hailo_model_optimization.acceleras.utils.acceleras_exceptions import (
    AccelerasValueError,
    BadInputsShape,
)

from hailo_standin.network import Array, Network

ENOUGH = 1024
KINDS = ("uint8", "float32", "float64")


@dataclass(frozen=True)
class Data:
    """Frames that can be read as often as one likes. `entries` is counted to 1024, no further."""

    read: Callable[[], Iterator[Array]]
    entries: int

    def first(self, count: int) -> Iterator[Array]:
        """Yield the first frames."""
        return islice(self.read(), count)


def data(given: object, network: Network) -> Data:
    """Return what was given as frames.

    Raises:
        BadInputsShape: they are not `(H, W, C)` as the network is.
        AccelerasValueError: of another kind, or none at all.
    """
    read = _reader(given, network)
    layer, wanted = network.scoped(network.input), network.shape(network.input)

    def checked() -> Iterator[Array]:
        for frame in read():
            if frame.shape != wanted:
                raise BadInputsShape(layer, frame.shape, wanted)
            if frame.dtype.name not in KINDS:
                raise AccelerasValueError(f"Unsupported calibration data type {frame.dtype}")
            yield frame

    entries = sum(1 for _ in islice(checked(), ENOUGH))
    if not entries:
        raise AccelerasValueError("The calibration dataset is empty")
    return Data(checked, entries)


def _reader(given: object, network: Network) -> Callable[[], Iterator[Array]]:
    if callable(given):
        made = given()
        return lambda: _dataset(made)
    if type(given).__module__.startswith("tensorflow"):
        return lambda: _dataset(given)
    if isinstance(given, dict):
        name = network.scoped(network.input)
        if list(given) != [name]:
            raise AccelerasValueError(f"The calibration data is for {list(given)}, not {[name]}")
        return _reader(given[name], network)
    if isinstance(given, str):
        return _files(Path(given))
    if isinstance(given, np.ndarray):
        return _array(given)
    raise AccelerasValueError(f"Unsupported calibration data {type(given).__name__}")


def _array(given: Array) -> Callable[[], Iterator[Array]]:
    if given.ndim != 4:
        raise AccelerasValueError(f"Calibration data has the shape {given.shape}, not (N, H, W, C)")
    return lambda: iter(given)


def _files(path: Path) -> Callable[[], Iterator[Array]]:
    if path.suffix == ".npy" and path.is_file():
        return _array(np.load(path, mmap_mode="r"))
    files = sorted(path.glob("*")) if path.is_dir() else []
    if not files or any(f.suffix != ".npy" for f in files):
        raise AccelerasValueError(f"{path} is no .npy file and no folder of such")
    return lambda: (np.load(f) for f in files)


def _dataset(given: Any) -> Iterator[Array]:
    if not type(given).__module__.startswith("tensorflow"):
        raise AccelerasValueError(f"The calibration function returned a {type(given).__name__}")
    for element in given:
        if not isinstance(element, tuple) or len(element) != 2 or not isinstance(element[1], dict):
            raise AccelerasValueError("The dataset's elements are not (image, info)")
        yield element[0].numpy()
