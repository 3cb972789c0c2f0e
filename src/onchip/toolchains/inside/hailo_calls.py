"""The calls of Hailo's Dataflow Compiler: one network per worker, from ONNX to HEF, and emulated.

Everything lies in the worker's own folder. The order of calls is the Model Zoo's: translate, save,
script, optimize in float, optimize, save, compile.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# how the parser ends where an operation lies before the end nodes that it cannot translate
RECOMMENDS = "ParsingWithRecommendationException"
_NODES = re.compile(r"using these end node names: *(.+?)\s*$", re.MULTILINE)


class Calls:
    """One network in the compiler."""

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        # what the compiler leaves behind goes with the worker's folder
        os.environ["TMPDIR"] = tempfile.tempdir = os.fspath(Path.cwd())
        import hailo_sdk_client

        self._sdk = hailo_sdk_client
        self._progress = progress
        self._runner: Any = None
        self._contexts: dict[tuple[str, float], Any] = {}
        self._opened = ExitStack()

    def translate(
        self,
        *,
        model: str,
        name: str,
        arch: str,
        start: list[str],
        end: list[str],
        shapes: dict[str, list[int]],
    ) -> dict[str, Any]:
        """Read an ONNX file; return the network as Hailo names it, or the end nodes it asks for.

        Args:
            model: a file in the worker's folder.
            name: the network's name.
            arch: the chip.
            start: ONNX nodes or inputs to begin at.
            end: ONNX nodes to end at, in the order of the outputs.
            shapes: of each start, NCHW.
        """
        self._progress("translate", 0, 1)
        self._runner = self._sdk.ClientRunner(hw_arch=arch)
        try:
            self._runner.translate_onnx_model(
                model,
                name,
                start_node_names=start,
                end_node_names=end,
                net_input_shapes=shapes,
            )
        except Exception as error:
            found = _NODES.findall(str(error))
            if type(error).__name__ != RECOMMENDS or not found:
                raise
            return {"recommended": [n for n in re.split(r"[,\s]+", found[-1]) if n]}
        self._progress("translate", 1, 1)
        return {"hn": self._hn()}

    def load(self, *, har: str, arch: str) -> dict[str, Any]:
        """Take up a network where a HAR left it, and return it as Hailo names it."""
        self._runner = self._sdk.ClientRunner(hw_arch=arch, har=har)
        return {"hn": self._hn()}

    def _hn(self) -> str:
        found = self._runner.get_hn()
        return found if isinstance(found, str) else json.dumps(found, default=str)

    def script(self, *, text: str) -> None:
        """Load the model script, instead of any before."""
        self._runner.load_model_script(text)

    def optimize(self, *, folder: str, images: int, shape: list[int]) -> None:
        """Quantize on photos.

        Args:
            folder: where `0.npy` to `{images - 1}.npy` lie.
            images: how many there are.
            shape: of each, (H, W, 3), bytes.
        """
        photos = self._photos(Path(folder), images, shape)
        self._progress("optimize", 0, 2)
        self._runner.optimize_full_precision(calib_data=photos)
        self._progress("optimize", 1, 2)
        self._runner.optimize(photos)
        self._progress("optimize", 2, 2)

    def _photos(self, folder: Path, images: int, shape: list[int]) -> Callable[[], object]:
        """The photos as the Model Zoo hands them over: one after the other, never all at once."""
        import tensorflow as tf

        def each() -> Iterator[tuple[Array, dict[str, object]]]:
            for number in range(images):
                yield np.load(folder / f"{number}.npy").astype(np.float32), {}

        kind = tf.TensorSpec(shape=tuple(shape), dtype=tf.float32)
        return lambda: tf.data.Dataset.from_generator(each, output_signature=(kind, {}))

    def save(self, *, har: str) -> None:
        """Write a HAR of the network as it now is."""
        self._runner.save_har(har)

    def compile(self) -> bytes:
        """Return the bytes of the HEF."""
        self._progress("compile", 0, 1)
        made = bytes(self._runner.compile())
        self._progress("compile", 1, 1)
        return made

    def infer(self, *, context: str, tensor: Array, score: float) -> list[Array]:
        """Run one input `(1, H, W, 3)` in an emulator, and return what each output gives.

        Args:
            context: a member of the compiler's InferenceContext.
            tensor: what that stage expects: after normalization is in the script, the pixels.
            score: the least score of boxes that the network suppresses by itself.
        """
        key = (context, score)
        if key not in self._contexts:
            kind = getattr(self._sdk.InferenceContext, context)
            limited = {"nms_score_threshold": score} if score else {}
            made = self._runner.infer_context(kind, **limited)
            self._contexts[key] = self._opened.enter_context(made)
        found = self._runner.infer(context=self._contexts[key], dataset=tensor, batch_size=1)
        return [np.asarray(f) for f in (found if isinstance(found, list) else [found])]
