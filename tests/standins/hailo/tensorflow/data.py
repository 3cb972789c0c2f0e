"""Datasets."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tensorflow._values import TensorSpec


class Dataset:
    """Elements that a generator makes, each time it is read."""

    def __init__(self, generator: Callable[[], Iterable[Any]], signature: Any) -> None:
        self._generator, self._signature = generator, signature

    @staticmethod
    def from_generator(
        generator: Callable[[], Iterable[Any]], *, output_signature: Any
    ) -> "Dataset":
        """Return a dataset of what a function yields, as `output_signature` announces it."""
        if not callable(generator):
            raise TypeError("`generator` must be a Python callable.")
        _check(output_signature)
        return Dataset(generator, output_signature)

    def __iter__(self) -> Iterator[Any]:
        """Begin again."""
        for element in self._generator():
            yield _made(element, self._signature)


def _check(signature: Any) -> None:
    if isinstance(signature, tuple):
        for part in signature:
            _check(part)
    elif isinstance(signature, Mapping):
        for part in signature.values():
            _check(part)
    elif not isinstance(signature, TensorSpec):
        raise TypeError(
            f"`output_signature` must contain objects that are subclass of `tf.TypeSpec` but found {type(signature)}"
        )


def _made(element: Any, signature: Any) -> Any:
    if isinstance(signature, tuple):
        if not isinstance(element, tuple) or len(element) != len(signature):
            raise TypeError(
                f"`generator` yielded an element that did not match the expected structure: {signature}"
            )
        return tuple(_made(e, s) for e, s in zip(element, signature, strict=True))
    if isinstance(signature, Mapping):
        if not isinstance(element, Mapping) or set(element) != set(signature):
            raise TypeError(
                f"`generator` yielded an element that did not match the expected structure: {signature}"
            )
        return {name: _made(element[name], s) for name, s in signature.items()}
    return signature.made(element)
