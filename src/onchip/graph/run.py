"""Run a float graph on this machine with ONNX Runtime: the reference for everything else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from onchip.errors import InputError, OnchipError, ToolError, UnsupportedError

Array = npt.NDArray[np.float32]

# it quantizes convolutions that a plan keeps in float, where codes stand before and after them
_UNWANTED = ["WeightBiasQuantization"]
NOTHING, PARTS, ALL = "ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"


def session(
    data: bytes, threads: int, *, optimize: str = ALL, spinning: bool = True
) -> ort.InferenceSession:
    """Load a graph into ONNX Runtime, to be run as it is written and in no fewer bits.

    Args:
        data: the serialized graph.
        threads: how many threads one call may use; 0 for one per core.
        optimize: how far nodes are run as one: `NOTHING`, as it is written; `PARTS`, which takes
            less memory where most tensors are outputs; or `ALL`.
        spinning: False lets idle threads sleep, so that others get the cores in between.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimize)
    # its fallback to the same provider would only print to stdout
    return ort.InferenceSession(
        data,
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,
        disabled_optimizers=_UNWANTED,
    )


class Runner:
    """A graph ready to run. Calling it is safe from several threads at once.

    Args:
        data: the serialized ONNX graph.
        threads: how many threads one call may use; 0 for one per core.
        optimize: False runs every node as it is written.
    """

    def __init__(self, data: bytes, threads: int = 0, optimize: bool = True) -> None:
        with translated("ONNX Runtime cannot load the graph", kind=ToolError):
            self._session = session(
                data, threads, optimize=ALL if optimize else NOTHING, spinning=False
            )
        for output in self._session.get_outputs():
            if not output.type.startswith("tensor(") or output.type == "tensor(string)":
                raise UnsupportedError(
                    f"the model's output {output.name} is a {output.type}, not numbers",
                    "onchip takes object detectors: models that give boxes and classes",
                )
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self._input = self._session.get_inputs()[0].name

    def __call__(self, tensor: npt.NDArray[np.generic]) -> dict[str, Array]:
        """Return every output, by name."""
        return dict(zip(self.outputs, self.run(tensor), strict=True))

    def run(self, tensor: npt.NDArray[np.generic]) -> Sequence[Array]:
        """Return every output, in the graph's order."""
        with translated("ONNX Runtime cannot run the graph", kind=ToolError):
            found: Sequence[Array] = self._session.run(None, {self._input: tensor})
        return found


@contextmanager
def translated(
    message: str, hint: str = "", *, kind: type[OnchipError] = InputError
) -> Iterator[None]:
    """Turn what a library raises inside into one error of ours, with its reason and cause.

    For single calls into onnx and ONNX Runtime, which raise many kinds, some of them bare.
    """
    try:
        yield
    except OnchipError:
        raise
    except Exception as error:
        raise kind(f"{message}: {_reason(error)}", hint) from error


def _reason(error: Exception) -> str:
    """Return the last line of a foreign error: the part that says what happened."""
    lines = str(error).strip().splitlines()
    text = lines[-1] if lines else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)
