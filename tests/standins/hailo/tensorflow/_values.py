"""Tensors and what is said of them beforehand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class Tensor:
    """An array that only `numpy()` opens."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its kind."""
        return self._array.dtype

    def numpy(self) -> npt.NDArray[Any]:
        """Return the array."""
        return self._array


class TensorSpec:
    """The shape and kind of a tensor to come; None in a shape is any size."""

    def __init__(self, shape: Sequence[int | None], dtype: np.dtype[Any]) -> None:
        if not isinstance(dtype, np.dtype):
            raise TypeError(f"Cannot convert {dtype!r} to a TensorFlow DType")
        self.shape, self.dtype = tuple(shape), dtype

    def made(self, value: object) -> Tensor:
        """Return a value as the tensor that was announced. Kinds are cast, shapes are not."""
        array = np.asarray(value, self.dtype)
        pairs = zip(array.shape, self.shape, strict=False)
        fits = array.ndim == len(self.shape) and all(w in (None, g) for g, w in pairs)
        if not fits:
            raise TypeError(
                f"`generator` yielded an element of shape {array.shape} where an element of shape "
                f"{self.shape} was expected."
            )
        return Tensor(array)
