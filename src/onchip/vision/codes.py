"""Head tensors as a chip gives them: floats, or its own integers with what they stand for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from onchip.detections import Floats

CODES = "onchip.codes"  # the entry of a file's metadata that tells of its outputs
Scale = tuple[float, float]  # scale and zero point


@dataclass(frozen=True)
class Codes:
    """Integers of a chip, all of one scale: `value = (code - zero) * scale`, in float32.

    It takes an index, a shape and a transposition as an array does, and stays codes.

    >>> codes = Codes(np.array([3, 200], np.uint8), scale=0.5, zero=100)
    >>> codes.real().tolist(), codes.at_least(50.0).tolist(), codes[:1].real().tolist()
    ([-48.5, 50.0], [False, True], [-48.5])
    """

    values: npt.NDArray[np.integer]
    scale: float
    zero: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.values.shape

    @property
    def T(self) -> "Codes":  # noqa: N802 - numpy's name
        """The codes with their axes the other way round."""
        return Codes(self.values.T, self.scale, self.zero)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> "Codes":
        return Codes(self.values[index], self.scale, self.zero)

    def reshape(self, *shape: int) -> "Codes":
        """The same codes in another shape."""
        return Codes(self.values.reshape(*shape), self.scale, self.zero)

    def real(self) -> Floats:
        """Return the values that the codes stand for."""
        shifted = np.subtract(self.values, np.float32(self.zero), dtype=np.float32)
        return np.multiply(shifted, np.float32(self.scale), out=shifted)

    def at_least(self, value: float) -> npt.NDArray[np.bool_]:
        """Return where the real value is at least `value`, without making real values of all."""
        least = _least(self.values.dtype.name, self.scale, self.zero, value)
        if least is None:
            return np.zeros(self.shape, bool)
        return np.asarray(self.values >= self.values.dtype.type(least))


@lru_cache(256)
def _least(kind: str, scale: float, zero: float, value: float) -> int | None:
    """Return the least code whose real value is at least `value`; None where there is none."""
    limits = np.iinfo(kind)
    every = np.arange(limits.min, limits.max + 1)
    place = int(np.searchsorted(Codes(every, scale, zero).real(), np.float32(value)))
    return int(every[place]) if place < len(every) else None


def codes_of(metadata: Mapping[str, str]) -> dict[str, Scale]:
    """Return what the integer outputs of a compiled file stand for, as its metadata tells it."""
    return msgspec.json.decode(metadata.get(CODES, "{}"), type=dict[str, Scale])


Values = Floats | Codes
Tensors = Mapping[str, Values]
FloatTensors = Mapping[str, Floats]


def real(values: Values) -> Floats:
    """Return floats as they are, and what codes stand for."""
    return values.real() if isinstance(values, Codes) else values


def all_real(tensors: Tensors) -> FloatTensors:
    """Return all tensors as floats, for who compares them."""
    return {name: real(values) for name, values in tensors.items()}


def named(
    names: Sequence[str], arrays: Iterable[npt.NDArray[Any]], scales: Mapping[str, Scale]
) -> dict[str, Values]:
    """Return a runtime's outputs by name, as codes where their scale is known."""
    return {
        name: Codes(values, *scales[name]) if name in scales else values
        for name, values in zip(names, arrays, strict=True)
    }


def at_least(values: Values, value: float) -> npt.NDArray[np.bool_]:
    """Return where values are at least `value`."""
    return values.at_least(value) if isinstance(values, Codes) else values >= value
